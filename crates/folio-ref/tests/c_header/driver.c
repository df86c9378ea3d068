/* Runs cases of `page_ref.h`: reads records from a file, writes the result and the word after each. */
#include "page_ref.h"
#include <stdio.h>

struct task {
	uint64_t word;
	uint32_t n;
	uint32_t operation;
};

struct outcome {
	uint64_t word;
	uint64_t result;
};

#define OPERATIONS(scheme, width)                                                                 \
	static struct outcome scheme##_run(struct task task)                                      \
	{                                                                                         \
		struct scheme##_ref ref = { PAGE_REF_INIT_##width((uint##width##_t)task.word) };  \
		struct outcome outcome = { 0, 0 };                                                \
		switch (task.operation) {                                                         \
		case 0: outcome.result = scheme##_try_get(&ref, task.n); break;                   \
		case 1: outcome.result = scheme##_try_get_unless_frozen(&ref, task.n); break;     \
		case 2: scheme##_get(&ref, task.n); break;                                        \
		case 3: outcome.result = scheme##_put(&ref, task.n); break;                       \
		case 4: outcome.result = scheme##_put_expecting_last(&ref); break;                \
		case 5: outcome.result = scheme##_freeze(&ref, task.n); break;                    \
		case 6: scheme##_unfreeze(&ref, task.n); break;                                   \
		default: outcome = scheme##_more(&ref, task); break;                              \
		}                                                                                 \
		outcome.word = page_ref_load_relaxed_##width(&ref.word);                          \
		return outcome;                                                                   \
	}

#define NO_MORE(scheme)                                                                           \
	static struct outcome scheme##_more(struct scheme##_ref *ref, struct task task)           \
	{                                                                                         \
		struct outcome outcome = { 0, 99 };                                               \
		(void)ref;                                                                        \
		(void)task;                                                                       \
		return outcome;                                                                   \
	}

NO_MORE(frozen_bit)
NO_MORE(live_bit_high)
NO_MORE(live_bit_low)
NO_MORE(generational)

static struct outcome tagged_more(struct tagged_ref *ref, struct task task)
{
	struct outcome outcome = { 0, 99 };

	if (task.operation == 7)
		outcome.result = tagged_try_claim(ref, (uint8_t)task.n);
	if (task.operation == 8) {
		tagged_leave_frozen_as(ref, (uint8_t)task.n);
		outcome.result = 0;
	}
	return outcome;
}

OPERATIONS(frozen_bit, 32)
OPERATIONS(live_bit_high, 32)
OPERATIONS(live_bit_low, 32)
OPERATIONS(generational, 64)
OPERATIONS(tagged, 64)

int main(int argc, char **argv)
{
	struct outcome (*const run[])(struct task) = { frozen_bit_run, live_bit_high_run,
						       live_bit_low_run, generational_run,
						       tagged_run };
	struct task task;
	FILE *in, *out;

	if (argc != 4)
		return 2;
	in = fopen(argv[2], "rb");
	out = fopen(argv[3], "wb");
	if (!in || !out)
		return 3;
	while (fread(&task, sizeof(task), 1, in) == 1) {
		struct outcome outcome = run[argv[1][0] - '0'](task);

		if (fwrite(&outcome, sizeof(outcome), 1, out) != 1)
			return 4;
	}
	return fclose(out) ? 5 : 0;
}
