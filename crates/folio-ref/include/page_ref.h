/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * page_ref.h: the reference count word of a page frame.
 *
 * Written by `cargo x c-header` from the layouts of the schemes of folio-ref. Do not edit it.
 *
 * The operations and their contracts are those of the Rust type `PageRef`, without its checks of
 * callers. A number of references is 1 to PAGE_REF_MAX_AT_ONCE, an expected count is 1 to
 * PAGE_REF_SATURATED - 1.
 *
 * A result of true from put, freeze and try_claim means that the caller owns the frozen frame. It
 * ends that by unfreeze, or leaves the frame frozen.
 *
 * Atomics: C11's. Define PAGE_REF_LINUX for those of Linux. Any other kernel defines
 * PAGE_REF_ATOMICS as the name of a header, which defines the types and macros below.
 */
#ifndef PAGE_REF_H
#define PAGE_REF_H

#if defined(PAGE_REF_ATOMICS)
#include PAGE_REF_ATOMICS
#elif defined(PAGE_REF_LINUX)
#include <linux/atomic.h>
#include <linux/types.h>
typedef atomic_t page_ref_word32;
typedef atomic64_t page_ref_word64;
#define PAGE_REF_INIT_32(value) ATOMIC_INIT((int)(value))
#define PAGE_REF_INIT_64(value) ATOMIC64_INIT((s64)(value))
#define page_ref_load_relaxed_32(word) ((uint32_t)atomic_read(word))
#define page_ref_load_relaxed_64(word) ((uint64_t)atomic64_read(word))
#define page_ref_store_relaxed_32(word, value) atomic_set(word, (int)(value))
#define page_ref_store_relaxed_64(word, value) atomic64_set(word, (s64)(value))
#define page_ref_store_release_32(word, value) atomic_set_release(word, (int)(value))
#define page_ref_store_release_64(word, value) atomic64_set_release(word, (s64)(value))
#define page_ref_add_acquire_32(word, n) ((uint32_t)atomic_fetch_add_acquire((int)(n), word))
#define page_ref_add_acquire_64(word, n) ((uint64_t)atomic64_fetch_add_acquire((s64)(n), word))
#define page_ref_add_relaxed_32(word, n) ((uint32_t)atomic_fetch_add_relaxed((int)(n), word))
#define page_ref_add_relaxed_64(word, n) ((uint64_t)atomic64_fetch_add_relaxed((s64)(n), word))
#define page_ref_sub_release_32(word, n) ((uint32_t)atomic_fetch_sub_release((int)(n), word))
#define page_ref_sub_release_64(word, n) ((uint64_t)atomic64_fetch_sub_release((s64)(n), word))
#define page_ref_cas_acquire_32(word, old, new) \
	atomic_try_cmpxchg_acquire(word, (int *)(old), (int)(new))
#define page_ref_cas_acquire_64(word, old, new) \
	atomic64_try_cmpxchg_acquire(word, (s64 *)(old), (s64)(new))
#define page_ref_cas_relaxed_32(word, old, new) \
	atomic_try_cmpxchg_relaxed(word, (int *)(old), (int)(new))
#define page_ref_cas_relaxed_64(word, old, new) \
	atomic64_try_cmpxchg_relaxed(word, (s64 *)(old), (s64)(new))
#else
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
typedef _Atomic uint32_t page_ref_word32;
typedef _Atomic uint64_t page_ref_word64;
#define PAGE_REF_INIT_32(value) (value)
#define PAGE_REF_INIT_64(value) (value)
#define page_ref_load_relaxed(word) atomic_load_explicit(word, memory_order_relaxed)
#define page_ref_load_relaxed_32 page_ref_load_relaxed
#define page_ref_load_relaxed_64 page_ref_load_relaxed
#define page_ref_store_relaxed(word, value) \
	atomic_store_explicit(word, value, memory_order_relaxed)
#define page_ref_store_relaxed_32 page_ref_store_relaxed
#define page_ref_store_relaxed_64 page_ref_store_relaxed
#define page_ref_store_release(word, value) \
	atomic_store_explicit(word, value, memory_order_release)
#define page_ref_store_release_32 page_ref_store_release
#define page_ref_store_release_64 page_ref_store_release
#define page_ref_add_acquire(word, n) atomic_fetch_add_explicit(word, n, memory_order_acquire)
#define page_ref_add_acquire_32 page_ref_add_acquire
#define page_ref_add_acquire_64 page_ref_add_acquire
#define page_ref_add_relaxed(word, n) atomic_fetch_add_explicit(word, n, memory_order_relaxed)
#define page_ref_add_relaxed_32 page_ref_add_relaxed
#define page_ref_add_relaxed_64 page_ref_add_relaxed
#define page_ref_sub_release(word, n) atomic_fetch_sub_explicit(word, n, memory_order_release)
#define page_ref_sub_release_32 page_ref_sub_release
#define page_ref_sub_release_64 page_ref_sub_release
#define page_ref_cas_acquire(word, old, new) \
	atomic_compare_exchange_strong_explicit(word, old, new, memory_order_acquire, \
						memory_order_relaxed)
#define page_ref_cas_acquire_32 page_ref_cas_acquire
#define page_ref_cas_acquire_64 page_ref_cas_acquire
#define page_ref_cas_relaxed(word, old, new) \
	atomic_compare_exchange_strong_explicit(word, old, new, memory_order_relaxed, \
						memory_order_relaxed)
#define page_ref_cas_relaxed_32 page_ref_cas_relaxed
#define page_ref_cas_relaxed_64 page_ref_cas_relaxed
#endif

#if defined(__GNUC__)
#define PAGE_REF_COLD __attribute__((cold, noinline, unused))
#else
#define PAGE_REF_COLD
#endif

/* The maximum number of references that one call takes or returns. */
#define PAGE_REF_MAX_AT_ONCE 1024u
/* The number of references at which the count saturates: the frame is leaked. */
#define PAGE_REF_SATURATED 0x40000000u
/* The value of a saturated count. */
#define PAGE_REF_PINNED (PAGE_REF_SATURATED + PAGE_REF_SATURATED / 2)
/* The number of stale increments at which a refused try_get resets them. */
#define PAGE_REF_STALE_LIMIT 0x40000000u

/* The result of an attempt to take references. */
enum page_ref_result {
	PAGE_REF_TAKEN = 0,
	/* The frame is frozen, free or a tail. */
	PAGE_REF_IS_FROZEN = 1,
	/* The count is saturated, or would be: the frame is leaked. */
	PAGE_REF_IS_SATURATED = 2,
};

/* The scheme frozen_bit. */

struct frozen_bit_ref {
	page_ref_word32 word;
};

#define FROZEN_BIT_BIT 0x80000000u
#define FROZEN_BIT_LIVE 0x0u
#define FROZEN_BIT_SHIFT 0
#define FROZEN_BIT_COUNT 0x7fffffffu
#define FROZEN_BIT_SATURATED 0x40000000u
#define FROZEN_BIT_GENERATION 0x0u
#define FROZEN_BIT_BUMP 0x0u
#define FROZEN_BIT_TAG 0x0u
#define FROZEN_BIT_FROZEN 0x80000000u
/* A new word: frozen. */
#define FROZEN_BIT_REF_INIT { PAGE_REF_INIT_32(FROZEN_BIT_FROZEN) }

static inline bool frozen_bit_is_frozen(uint32_t word)
{
	return (word & FROZEN_BIT_BIT) != FROZEN_BIT_LIVE;
}

/* Returns the references if live, the stale increments if frozen. */
static inline uint32_t frozen_bit_count(uint32_t word)
{
	return (uint32_t)((word & FROZEN_BIT_COUNT) >> FROZEN_BIT_SHIFT);
}

/* Returns the live word with n references, in the generation of word. */
static inline uint32_t frozen_bit_live(uint32_t n, uint32_t word)
{
	return FROZEN_BIT_LIVE | (word & FROZEN_BIT_GENERATION) | ((uint32_t)n << FROZEN_BIT_SHIFT);
}

/* Returns true if live and below saturation. */
static inline bool frozen_bit_admits(uint32_t word)
{
	return (word & (FROZEN_BIT_BIT | FROZEN_BIT_SATURATED)) == FROZEN_BIT_LIVE;
}

/* Returns the frozen word of an owner that follows a live one. */
static inline uint32_t frozen_bit_next_frozen(uint32_t word)
{
	uint32_t generation = (word & FROZEN_BIT_GENERATION) + FROZEN_BIT_BUMP;

	return FROZEN_BIT_FROZEN | (generation & FROZEN_BIT_GENERATION) | FROZEN_BIT_TAG;
}

static inline uint32_t frozen_bit_without_stale(uint32_t word)
{
	return word & (FROZEN_BIT_BIT | FROZEN_BIT_GENERATION | FROZEN_BIT_TAG);
}

/* Lifts a live count of from or more far above the limit, where it stays. */
static PAGE_REF_COLD void frozen_bit_pin(struct frozen_bit_ref *ref, uint32_t from)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	while (!frozen_bit_is_frozen(now) && frozen_bit_count(now) >= from) {
		if (page_ref_cas_relaxed_32(&ref->word, &now,
						 frozen_bit_live(PAGE_REF_PINNED, now)))
			break;
	}
}

/* Ends a refused try_get: bounds the stale increments, or pins a saturated count. */
static PAGE_REF_COLD enum page_ref_result frozen_bit_refuse(struct frozen_bit_ref *ref,
							  uint32_t old, uint32_t n)
{
	uint32_t now = old + n;

	if (!frozen_bit_is_frozen(old)) {
		frozen_bit_pin(ref, 0);
		return PAGE_REF_IS_SATURATED;
	}
	while (frozen_bit_is_frozen(now) && frozen_bit_count(now) >= PAGE_REF_STALE_LIMIT) {
		if (page_ref_cas_relaxed_32(&ref->word, &now, frozen_bit_without_stale(now)))
			break;
	}
	return PAGE_REF_IS_FROZEN;
}

/* Takes n references unless the frame is frozen or saturated. */
static inline enum page_ref_result frozen_bit_try_get(struct frozen_bit_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << FROZEN_BIT_SHIFT;
	/* Acquire: sees what unfreeze published. */
	uint32_t old = page_ref_add_acquire_32(&ref->word, add);

	if (frozen_bit_admits(old) && frozen_bit_admits(old + add))
		return PAGE_REF_TAKEN;
	return frozen_bit_refuse(ref, old, add);
}

/* Takes n references unless the frame is frozen or saturated. A refusal writes nothing. */
static inline enum page_ref_result frozen_bit_try_get_unless_frozen(struct frozen_bit_ref *ref,
								  uint32_t n)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	if (frozen_bit_is_frozen(now))
		return PAGE_REF_IS_FROZEN;
	if (frozen_bit_count(now) >= PAGE_REF_SATURATED)
		return PAGE_REF_IS_SATURATED;
	return frozen_bit_try_get(ref, n);
}

/* Takes n more references, for a caller that holds one. */
static inline void frozen_bit_get(struct frozen_bit_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << FROZEN_BIT_SHIFT;
	uint32_t old = page_ref_add_relaxed_32(&ref->word, add);

	if (frozen_bit_count(old) >= PAGE_REF_SATURATED - n)
		frozen_bit_pin(ref, PAGE_REF_SATURATED);
}

/* The first step of put. True if the count reached 0: the second step is owed. */
static inline bool frozen_bit_put_first(struct frozen_bit_ref *ref, uint32_t n, uint32_t *dying)
{
	uint32_t sub = (uint32_t)n << FROZEN_BIT_SHIFT;
	/* Release: what this holder wrote is visible to the winner of the frame. */
	uint32_t old = page_ref_sub_release_32(&ref->word, sub);
	uint32_t left = frozen_bit_count(old) - n;

	if (left - 1 < PAGE_REF_SATURATED - 1)
		return false;
	if (left == 0) {
		*dying = frozen_bit_live(0, old);
		return true;
	}
	frozen_bit_pin(ref, PAGE_REF_SATURATED);
	return false;
}

/* The second step of put. True if the caller froze the frame. */
static inline bool frozen_bit_put_second(struct frozen_bit_ref *ref, uint32_t dying)
{
	/* Acquire: sees what every holder wrote before its put. */
	return page_ref_cas_acquire_32(&ref->word, &dying, frozen_bit_next_frozen(dying));
}

/* Returns n references. True if they were the last: the caller owns the frame. */
static inline bool frozen_bit_put(struct frozen_bit_ref *ref, uint32_t n)
{
	uint32_t dying;

	return frozen_bit_put_first(ref, n, &dying) && frozen_bit_put_second(ref, dying);
}

/* Takes exclusive control if exactly expected references exist. They are consumed. */
static inline bool frozen_bit_freeze(struct frozen_bit_ref *ref, uint32_t expected)
{
	uint32_t live = frozen_bit_live(
		expected, FROZEN_BIT_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0);

	/* Acquire: the new owner may overwrite what earlier holders read. */
	return page_ref_cas_acquire_32(&ref->word, &live, frozen_bit_next_frozen(live));
}

/* Returns one reference, for a caller that expects it to be the last. */
static inline bool frozen_bit_put_expecting_last(struct frozen_bit_ref *ref)
{
	return frozen_bit_freeze(ref, 1) || frozen_bit_put(ref, 1);
}

/* Ends the freeze with n references, for the owner. */
static inline void frozen_bit_unfreeze(struct frozen_bit_ref *ref, uint32_t n)
{
	uint32_t frozen =
		FROZEN_BIT_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0;

	/* Release: publishes the frame to every successful try_get. */
	page_ref_store_release_32(&ref->word, frozen_bit_live(n, frozen));
}

/* The scheme live_bit_high. */

struct live_bit_high_ref {
	page_ref_word32 word;
};

#define LIVE_BIT_HIGH_BIT 0x80000000u
#define LIVE_BIT_HIGH_LIVE 0x80000000u
#define LIVE_BIT_HIGH_SHIFT 0
#define LIVE_BIT_HIGH_COUNT 0x7fffffffu
#define LIVE_BIT_HIGH_SATURATED 0x40000000u
#define LIVE_BIT_HIGH_GENERATION 0x0u
#define LIVE_BIT_HIGH_BUMP 0x0u
#define LIVE_BIT_HIGH_TAG 0x0u
#define LIVE_BIT_HIGH_FROZEN 0x0u
/* A new word: frozen. */
#define LIVE_BIT_HIGH_REF_INIT { PAGE_REF_INIT_32(LIVE_BIT_HIGH_FROZEN) }

static inline bool live_bit_high_is_frozen(uint32_t word)
{
	return (word & LIVE_BIT_HIGH_BIT) != LIVE_BIT_HIGH_LIVE;
}

/* Returns the references if live, the stale increments if frozen. */
static inline uint32_t live_bit_high_count(uint32_t word)
{
	return (uint32_t)((word & LIVE_BIT_HIGH_COUNT) >> LIVE_BIT_HIGH_SHIFT);
}

/* Returns the live word with n references, in the generation of word. */
static inline uint32_t live_bit_high_live(uint32_t n, uint32_t word)
{
	return LIVE_BIT_HIGH_LIVE | (word & LIVE_BIT_HIGH_GENERATION) | ((uint32_t)n << LIVE_BIT_HIGH_SHIFT);
}

/* Returns true if live and below saturation. */
static inline bool live_bit_high_admits(uint32_t word)
{
	return (word & (LIVE_BIT_HIGH_BIT | LIVE_BIT_HIGH_SATURATED)) == LIVE_BIT_HIGH_LIVE;
}

/* Returns the frozen word of an owner that follows a live one. */
static inline uint32_t live_bit_high_next_frozen(uint32_t word)
{
	uint32_t generation = (word & LIVE_BIT_HIGH_GENERATION) + LIVE_BIT_HIGH_BUMP;

	return LIVE_BIT_HIGH_FROZEN | (generation & LIVE_BIT_HIGH_GENERATION) | LIVE_BIT_HIGH_TAG;
}

static inline uint32_t live_bit_high_without_stale(uint32_t word)
{
	return word & (LIVE_BIT_HIGH_BIT | LIVE_BIT_HIGH_GENERATION | LIVE_BIT_HIGH_TAG);
}

/* Lifts a live count of from or more far above the limit, where it stays. */
static PAGE_REF_COLD void live_bit_high_pin(struct live_bit_high_ref *ref, uint32_t from)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	while (!live_bit_high_is_frozen(now) && live_bit_high_count(now) >= from) {
		if (page_ref_cas_relaxed_32(&ref->word, &now,
						 live_bit_high_live(PAGE_REF_PINNED, now)))
			break;
	}
}

/* Ends a refused try_get: bounds the stale increments, or pins a saturated count. */
static PAGE_REF_COLD enum page_ref_result live_bit_high_refuse(struct live_bit_high_ref *ref,
							  uint32_t old, uint32_t n)
{
	uint32_t now = old + n;

	if (!live_bit_high_is_frozen(old)) {
		live_bit_high_pin(ref, 0);
		return PAGE_REF_IS_SATURATED;
	}
	while (live_bit_high_is_frozen(now) && live_bit_high_count(now) >= PAGE_REF_STALE_LIMIT) {
		if (page_ref_cas_relaxed_32(&ref->word, &now, live_bit_high_without_stale(now)))
			break;
	}
	return PAGE_REF_IS_FROZEN;
}

/* Takes n references unless the frame is frozen or saturated. */
static inline enum page_ref_result live_bit_high_try_get(struct live_bit_high_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << LIVE_BIT_HIGH_SHIFT;
	/* Acquire: sees what unfreeze published. */
	uint32_t old = page_ref_add_acquire_32(&ref->word, add);

	if (live_bit_high_admits(old) && live_bit_high_admits(old + add))
		return PAGE_REF_TAKEN;
	return live_bit_high_refuse(ref, old, add);
}

/* Takes n references unless the frame is frozen or saturated. A refusal writes nothing. */
static inline enum page_ref_result live_bit_high_try_get_unless_frozen(struct live_bit_high_ref *ref,
								  uint32_t n)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	if (live_bit_high_is_frozen(now))
		return PAGE_REF_IS_FROZEN;
	if (live_bit_high_count(now) >= PAGE_REF_SATURATED)
		return PAGE_REF_IS_SATURATED;
	return live_bit_high_try_get(ref, n);
}

/* Takes n more references, for a caller that holds one. */
static inline void live_bit_high_get(struct live_bit_high_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << LIVE_BIT_HIGH_SHIFT;
	uint32_t old = page_ref_add_relaxed_32(&ref->word, add);

	if (live_bit_high_count(old) >= PAGE_REF_SATURATED - n)
		live_bit_high_pin(ref, PAGE_REF_SATURATED);
}

/* The first step of put. True if the count reached 0: the second step is owed. */
static inline bool live_bit_high_put_first(struct live_bit_high_ref *ref, uint32_t n, uint32_t *dying)
{
	uint32_t sub = (uint32_t)n << LIVE_BIT_HIGH_SHIFT;
	/* Release: what this holder wrote is visible to the winner of the frame. */
	uint32_t old = page_ref_sub_release_32(&ref->word, sub);
	uint32_t left = live_bit_high_count(old) - n;

	if (left - 1 < PAGE_REF_SATURATED - 1)
		return false;
	if (left == 0) {
		*dying = live_bit_high_live(0, old);
		return true;
	}
	live_bit_high_pin(ref, PAGE_REF_SATURATED);
	return false;
}

/* The second step of put. True if the caller froze the frame. */
static inline bool live_bit_high_put_second(struct live_bit_high_ref *ref, uint32_t dying)
{
	/* Acquire: sees what every holder wrote before its put. */
	return page_ref_cas_acquire_32(&ref->word, &dying, live_bit_high_next_frozen(dying));
}

/* Returns n references. True if they were the last: the caller owns the frame. */
static inline bool live_bit_high_put(struct live_bit_high_ref *ref, uint32_t n)
{
	uint32_t dying;

	return live_bit_high_put_first(ref, n, &dying) && live_bit_high_put_second(ref, dying);
}

/* Takes exclusive control if exactly expected references exist. They are consumed. */
static inline bool live_bit_high_freeze(struct live_bit_high_ref *ref, uint32_t expected)
{
	uint32_t live = live_bit_high_live(
		expected, LIVE_BIT_HIGH_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0);

	/* Acquire: the new owner may overwrite what earlier holders read. */
	return page_ref_cas_acquire_32(&ref->word, &live, live_bit_high_next_frozen(live));
}

/* Returns one reference, for a caller that expects it to be the last. */
static inline bool live_bit_high_put_expecting_last(struct live_bit_high_ref *ref)
{
	return live_bit_high_freeze(ref, 1) || live_bit_high_put(ref, 1);
}

/* Ends the freeze with n references, for the owner. */
static inline void live_bit_high_unfreeze(struct live_bit_high_ref *ref, uint32_t n)
{
	uint32_t frozen =
		LIVE_BIT_HIGH_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0;

	/* Release: publishes the frame to every successful try_get. */
	page_ref_store_release_32(&ref->word, live_bit_high_live(n, frozen));
}

/* The scheme live_bit_low. */

struct live_bit_low_ref {
	page_ref_word32 word;
};

#define LIVE_BIT_LOW_BIT 0x1u
#define LIVE_BIT_LOW_LIVE 0x1u
#define LIVE_BIT_LOW_SHIFT 1
#define LIVE_BIT_LOW_COUNT 0xfffffffeu
#define LIVE_BIT_LOW_SATURATED 0x80000000u
#define LIVE_BIT_LOW_GENERATION 0x0u
#define LIVE_BIT_LOW_BUMP 0x0u
#define LIVE_BIT_LOW_TAG 0x0u
#define LIVE_BIT_LOW_FROZEN 0x0u
/* A new word: frozen. */
#define LIVE_BIT_LOW_REF_INIT { PAGE_REF_INIT_32(LIVE_BIT_LOW_FROZEN) }

static inline bool live_bit_low_is_frozen(uint32_t word)
{
	return (word & LIVE_BIT_LOW_BIT) != LIVE_BIT_LOW_LIVE;
}

/* Returns the references if live, the stale increments if frozen. */
static inline uint32_t live_bit_low_count(uint32_t word)
{
	return (uint32_t)((word & LIVE_BIT_LOW_COUNT) >> LIVE_BIT_LOW_SHIFT);
}

/* Returns the live word with n references, in the generation of word. */
static inline uint32_t live_bit_low_live(uint32_t n, uint32_t word)
{
	return LIVE_BIT_LOW_LIVE | (word & LIVE_BIT_LOW_GENERATION) | ((uint32_t)n << LIVE_BIT_LOW_SHIFT);
}

/* Returns true if live and below saturation. */
static inline bool live_bit_low_admits(uint32_t word)
{
	return (word & (LIVE_BIT_LOW_BIT | LIVE_BIT_LOW_SATURATED)) == LIVE_BIT_LOW_LIVE;
}

/* Returns the frozen word of an owner that follows a live one. */
static inline uint32_t live_bit_low_next_frozen(uint32_t word)
{
	uint32_t generation = (word & LIVE_BIT_LOW_GENERATION) + LIVE_BIT_LOW_BUMP;

	return LIVE_BIT_LOW_FROZEN | (generation & LIVE_BIT_LOW_GENERATION) | LIVE_BIT_LOW_TAG;
}

static inline uint32_t live_bit_low_without_stale(uint32_t word)
{
	return word & (LIVE_BIT_LOW_BIT | LIVE_BIT_LOW_GENERATION | LIVE_BIT_LOW_TAG);
}

/* Lifts a live count of from or more far above the limit, where it stays. */
static PAGE_REF_COLD void live_bit_low_pin(struct live_bit_low_ref *ref, uint32_t from)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	while (!live_bit_low_is_frozen(now) && live_bit_low_count(now) >= from) {
		if (page_ref_cas_relaxed_32(&ref->word, &now,
						 live_bit_low_live(PAGE_REF_PINNED, now)))
			break;
	}
}

/* Ends a refused try_get: bounds the stale increments, or pins a saturated count. */
static PAGE_REF_COLD enum page_ref_result live_bit_low_refuse(struct live_bit_low_ref *ref,
							  uint32_t old, uint32_t n)
{
	uint32_t now = old + n;

	if (!live_bit_low_is_frozen(old)) {
		live_bit_low_pin(ref, 0);
		return PAGE_REF_IS_SATURATED;
	}
	while (live_bit_low_is_frozen(now) && live_bit_low_count(now) >= PAGE_REF_STALE_LIMIT) {
		if (page_ref_cas_relaxed_32(&ref->word, &now, live_bit_low_without_stale(now)))
			break;
	}
	return PAGE_REF_IS_FROZEN;
}

/* Takes n references unless the frame is frozen or saturated. */
static inline enum page_ref_result live_bit_low_try_get(struct live_bit_low_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << LIVE_BIT_LOW_SHIFT;
	/* Acquire: sees what unfreeze published. */
	uint32_t old = page_ref_add_acquire_32(&ref->word, add);

	if (live_bit_low_admits(old) && live_bit_low_admits(old + add))
		return PAGE_REF_TAKEN;
	return live_bit_low_refuse(ref, old, add);
}

/* Takes n references unless the frame is frozen or saturated. A refusal writes nothing. */
static inline enum page_ref_result live_bit_low_try_get_unless_frozen(struct live_bit_low_ref *ref,
								  uint32_t n)
{
	uint32_t now = page_ref_load_relaxed_32(&ref->word);

	if (live_bit_low_is_frozen(now))
		return PAGE_REF_IS_FROZEN;
	if (live_bit_low_count(now) >= PAGE_REF_SATURATED)
		return PAGE_REF_IS_SATURATED;
	return live_bit_low_try_get(ref, n);
}

/* Takes n more references, for a caller that holds one. */
static inline void live_bit_low_get(struct live_bit_low_ref *ref, uint32_t n)
{
	uint32_t add = (uint32_t)n << LIVE_BIT_LOW_SHIFT;
	uint32_t old = page_ref_add_relaxed_32(&ref->word, add);

	if (live_bit_low_count(old) >= PAGE_REF_SATURATED - n)
		live_bit_low_pin(ref, PAGE_REF_SATURATED);
}

/* The first step of put. True if the count reached 0: the second step is owed. */
static inline bool live_bit_low_put_first(struct live_bit_low_ref *ref, uint32_t n, uint32_t *dying)
{
	uint32_t sub = (uint32_t)n << LIVE_BIT_LOW_SHIFT;
	/* Release: what this holder wrote is visible to the winner of the frame. */
	uint32_t old = page_ref_sub_release_32(&ref->word, sub);
	uint32_t left = live_bit_low_count(old) - n;

	if (left - 1 < PAGE_REF_SATURATED - 1)
		return false;
	if (left == 0) {
		*dying = live_bit_low_live(0, old);
		return true;
	}
	live_bit_low_pin(ref, PAGE_REF_SATURATED);
	return false;
}

/* The second step of put. True if the caller froze the frame. */
static inline bool live_bit_low_put_second(struct live_bit_low_ref *ref, uint32_t dying)
{
	/* Acquire: sees what every holder wrote before its put. */
	return page_ref_cas_acquire_32(&ref->word, &dying, live_bit_low_next_frozen(dying));
}

/* Returns n references. True if they were the last: the caller owns the frame. */
static inline bool live_bit_low_put(struct live_bit_low_ref *ref, uint32_t n)
{
	uint32_t dying;

	return live_bit_low_put_first(ref, n, &dying) && live_bit_low_put_second(ref, dying);
}

/* Takes exclusive control if exactly expected references exist. They are consumed. */
static inline bool live_bit_low_freeze(struct live_bit_low_ref *ref, uint32_t expected)
{
	uint32_t live = live_bit_low_live(
		expected, LIVE_BIT_LOW_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0);

	/* Acquire: the new owner may overwrite what earlier holders read. */
	return page_ref_cas_acquire_32(&ref->word, &live, live_bit_low_next_frozen(live));
}

/* Returns one reference, for a caller that expects it to be the last. */
static inline bool live_bit_low_put_expecting_last(struct live_bit_low_ref *ref)
{
	return live_bit_low_freeze(ref, 1) || live_bit_low_put(ref, 1);
}

/* Ends the freeze with n references, for the owner. */
static inline void live_bit_low_unfreeze(struct live_bit_low_ref *ref, uint32_t n)
{
	uint32_t frozen =
		LIVE_BIT_LOW_GENERATION ? page_ref_load_relaxed_32(&ref->word) : 0;

	/* Release: publishes the frame to every successful try_get. */
	page_ref_store_release_32(&ref->word, live_bit_low_live(n, frozen));
}

/* The scheme generational. */

struct generational_ref {
	page_ref_word64 word;
};

#define GENERATIONAL_BIT 0x8000000000000000ull
#define GENERATIONAL_LIVE 0x8000000000000000ull
#define GENERATIONAL_SHIFT 0
#define GENERATIONAL_COUNT 0xffffffffull
#define GENERATIONAL_SATURATED 0xc0000000ull
#define GENERATIONAL_GENERATION 0x7fffffff00000000ull
#define GENERATIONAL_BUMP 0x100000000ull
#define GENERATIONAL_TAG 0x0ull
#define GENERATIONAL_FROZEN 0x0ull
/* A new word: frozen. */
#define GENERATIONAL_REF_INIT { PAGE_REF_INIT_64(GENERATIONAL_FROZEN) }

static inline bool generational_is_frozen(uint64_t word)
{
	return (word & GENERATIONAL_BIT) != GENERATIONAL_LIVE;
}

/* Returns the references if live, the stale increments if frozen. */
static inline uint32_t generational_count(uint64_t word)
{
	return (uint32_t)((word & GENERATIONAL_COUNT) >> GENERATIONAL_SHIFT);
}

/* Returns the live word with n references, in the generation of word. */
static inline uint64_t generational_live(uint32_t n, uint64_t word)
{
	return GENERATIONAL_LIVE | (word & GENERATIONAL_GENERATION) | ((uint64_t)n << GENERATIONAL_SHIFT);
}

/* Returns true if live and below saturation. */
static inline bool generational_admits(uint64_t word)
{
	return (word & (GENERATIONAL_BIT | GENERATIONAL_SATURATED)) == GENERATIONAL_LIVE;
}

/* Returns the frozen word of an owner that follows a live one. */
static inline uint64_t generational_next_frozen(uint64_t word)
{
	uint64_t generation = (word & GENERATIONAL_GENERATION) + GENERATIONAL_BUMP;

	return GENERATIONAL_FROZEN | (generation & GENERATIONAL_GENERATION) | GENERATIONAL_TAG;
}

static inline uint64_t generational_without_stale(uint64_t word)
{
	return word & (GENERATIONAL_BIT | GENERATIONAL_GENERATION | GENERATIONAL_TAG);
}

/* Lifts a live count of from or more far above the limit, where it stays. */
static PAGE_REF_COLD void generational_pin(struct generational_ref *ref, uint32_t from)
{
	uint64_t now = page_ref_load_relaxed_64(&ref->word);

	while (!generational_is_frozen(now) && generational_count(now) >= from) {
		if (page_ref_cas_relaxed_64(&ref->word, &now,
						 generational_live(PAGE_REF_PINNED, now)))
			break;
	}
}

/* Ends a refused try_get: bounds the stale increments, or pins a saturated count. */
static PAGE_REF_COLD enum page_ref_result generational_refuse(struct generational_ref *ref,
							  uint64_t old, uint64_t n)
{
	uint64_t now = old + n;

	if (!generational_is_frozen(old)) {
		generational_pin(ref, 0);
		return PAGE_REF_IS_SATURATED;
	}
	while (generational_is_frozen(now) && generational_count(now) >= PAGE_REF_STALE_LIMIT) {
		if (page_ref_cas_relaxed_64(&ref->word, &now, generational_without_stale(now)))
			break;
	}
	return PAGE_REF_IS_FROZEN;
}

/* Takes n references unless the frame is frozen or saturated. */
static inline enum page_ref_result generational_try_get(struct generational_ref *ref, uint32_t n)
{
	uint64_t add = (uint64_t)n << GENERATIONAL_SHIFT;
	/* Acquire: sees what unfreeze published. */
	uint64_t old = page_ref_add_acquire_64(&ref->word, add);

	if (generational_admits(old) && generational_admits(old + add))
		return PAGE_REF_TAKEN;
	return generational_refuse(ref, old, add);
}

/* Takes n references unless the frame is frozen or saturated. A refusal writes nothing. */
static inline enum page_ref_result generational_try_get_unless_frozen(struct generational_ref *ref,
								  uint32_t n)
{
	uint64_t now = page_ref_load_relaxed_64(&ref->word);

	if (generational_is_frozen(now))
		return PAGE_REF_IS_FROZEN;
	if (generational_count(now) >= PAGE_REF_SATURATED)
		return PAGE_REF_IS_SATURATED;
	return generational_try_get(ref, n);
}

/* Takes n more references, for a caller that holds one. */
static inline void generational_get(struct generational_ref *ref, uint32_t n)
{
	uint64_t add = (uint64_t)n << GENERATIONAL_SHIFT;
	uint64_t old = page_ref_add_relaxed_64(&ref->word, add);

	if (generational_count(old) >= PAGE_REF_SATURATED - n)
		generational_pin(ref, PAGE_REF_SATURATED);
}

/* The first step of put. True if the count reached 0: the second step is owed. */
static inline bool generational_put_first(struct generational_ref *ref, uint32_t n, uint64_t *dying)
{
	uint64_t sub = (uint64_t)n << GENERATIONAL_SHIFT;
	/* Release: what this holder wrote is visible to the winner of the frame. */
	uint64_t old = page_ref_sub_release_64(&ref->word, sub);
	uint32_t left = generational_count(old) - n;

	if (left - 1 < PAGE_REF_SATURATED - 1)
		return false;
	if (left == 0) {
		*dying = generational_live(0, old);
		return true;
	}
	generational_pin(ref, PAGE_REF_SATURATED);
	return false;
}

/* The second step of put. True if the caller froze the frame. */
static inline bool generational_put_second(struct generational_ref *ref, uint64_t dying)
{
	/* Acquire: sees what every holder wrote before its put. */
	return page_ref_cas_acquire_64(&ref->word, &dying, generational_next_frozen(dying));
}

/* Returns n references. True if they were the last: the caller owns the frame. */
static inline bool generational_put(struct generational_ref *ref, uint32_t n)
{
	uint64_t dying;

	return generational_put_first(ref, n, &dying) && generational_put_second(ref, dying);
}

/* Takes exclusive control if exactly expected references exist. They are consumed. */
static inline bool generational_freeze(struct generational_ref *ref, uint32_t expected)
{
	uint64_t live = generational_live(
		expected, GENERATIONAL_GENERATION ? page_ref_load_relaxed_64(&ref->word) : 0);

	/* Acquire: the new owner may overwrite what earlier holders read. */
	return page_ref_cas_acquire_64(&ref->word, &live, generational_next_frozen(live));
}

/* Returns one reference, for a caller that expects it to be the last. */
static inline bool generational_put_expecting_last(struct generational_ref *ref)
{
	return generational_freeze(ref, 1) || generational_put(ref, 1);
}

/* Ends the freeze with n references, for the owner. */
static inline void generational_unfreeze(struct generational_ref *ref, uint32_t n)
{
	uint64_t frozen =
		GENERATIONAL_GENERATION ? page_ref_load_relaxed_64(&ref->word) : 0;

	/* Release: publishes the frame to every successful try_get. */
	page_ref_store_release_64(&ref->word, generational_live(n, frozen));
}

/* The scheme tagged. */

struct tagged_ref {
	page_ref_word64 word;
};

#define TAGGED_BIT 0x8000000000000000ull
#define TAGGED_LIVE 0x8000000000000000ull
#define TAGGED_SHIFT 0
#define TAGGED_COUNT 0xffffffffull
#define TAGGED_SATURATED 0xc0000000ull
#define TAGGED_GENERATION 0xfffffff00000000ull
#define TAGGED_BUMP 0x100000000ull
#define TAGGED_TAG 0x7000000000000000ull
#define TAGGED_FROZEN 0x0ull
/* A new word: frozen. */
#define TAGGED_REF_INIT { PAGE_REF_INIT_64(TAGGED_FROZEN) }

static inline bool tagged_is_frozen(uint64_t word)
{
	return (word & TAGGED_BIT) != TAGGED_LIVE;
}

/* Returns the references if live, the stale increments if frozen. */
static inline uint32_t tagged_count(uint64_t word)
{
	return (uint32_t)((word & TAGGED_COUNT) >> TAGGED_SHIFT);
}

/* Returns the live word with n references, in the generation of word. */
static inline uint64_t tagged_live(uint32_t n, uint64_t word)
{
	return TAGGED_LIVE | (word & TAGGED_GENERATION) | ((uint64_t)n << TAGGED_SHIFT);
}

/* Returns true if live and below saturation. */
static inline bool tagged_admits(uint64_t word)
{
	return (word & (TAGGED_BIT | TAGGED_SATURATED)) == TAGGED_LIVE;
}

/* Returns the frozen word of an owner that follows a live one. */
static inline uint64_t tagged_next_frozen(uint64_t word)
{
	uint64_t generation = (word & TAGGED_GENERATION) + TAGGED_BUMP;

	return TAGGED_FROZEN | (generation & TAGGED_GENERATION) | TAGGED_TAG;
}

static inline uint64_t tagged_without_stale(uint64_t word)
{
	return word & (TAGGED_BIT | TAGGED_GENERATION | TAGGED_TAG);
}

/* Lifts a live count of from or more far above the limit, where it stays. */
static PAGE_REF_COLD void tagged_pin(struct tagged_ref *ref, uint32_t from)
{
	uint64_t now = page_ref_load_relaxed_64(&ref->word);

	while (!tagged_is_frozen(now) && tagged_count(now) >= from) {
		if (page_ref_cas_relaxed_64(&ref->word, &now,
						 tagged_live(PAGE_REF_PINNED, now)))
			break;
	}
}

/* Ends a refused try_get: bounds the stale increments, or pins a saturated count. */
static PAGE_REF_COLD enum page_ref_result tagged_refuse(struct tagged_ref *ref,
							  uint64_t old, uint64_t n)
{
	uint64_t now = old + n;

	if (!tagged_is_frozen(old)) {
		tagged_pin(ref, 0);
		return PAGE_REF_IS_SATURATED;
	}
	while (tagged_is_frozen(now) && tagged_count(now) >= PAGE_REF_STALE_LIMIT) {
		if (page_ref_cas_relaxed_64(&ref->word, &now, tagged_without_stale(now)))
			break;
	}
	return PAGE_REF_IS_FROZEN;
}

/* Takes n references unless the frame is frozen or saturated. */
static inline enum page_ref_result tagged_try_get(struct tagged_ref *ref, uint32_t n)
{
	uint64_t add = (uint64_t)n << TAGGED_SHIFT;
	/* Acquire: sees what unfreeze published. */
	uint64_t old = page_ref_add_acquire_64(&ref->word, add);

	if (tagged_admits(old) && tagged_admits(old + add))
		return PAGE_REF_TAKEN;
	return tagged_refuse(ref, old, add);
}

/* Takes n references unless the frame is frozen or saturated. A refusal writes nothing. */
static inline enum page_ref_result tagged_try_get_unless_frozen(struct tagged_ref *ref,
								  uint32_t n)
{
	uint64_t now = page_ref_load_relaxed_64(&ref->word);

	if (tagged_is_frozen(now))
		return PAGE_REF_IS_FROZEN;
	if (tagged_count(now) >= PAGE_REF_SATURATED)
		return PAGE_REF_IS_SATURATED;
	return tagged_try_get(ref, n);
}

/* Takes n more references, for a caller that holds one. */
static inline void tagged_get(struct tagged_ref *ref, uint32_t n)
{
	uint64_t add = (uint64_t)n << TAGGED_SHIFT;
	uint64_t old = page_ref_add_relaxed_64(&ref->word, add);

	if (tagged_count(old) >= PAGE_REF_SATURATED - n)
		tagged_pin(ref, PAGE_REF_SATURATED);
}

/* The first step of put. True if the count reached 0: the second step is owed. */
static inline bool tagged_put_first(struct tagged_ref *ref, uint32_t n, uint64_t *dying)
{
	uint64_t sub = (uint64_t)n << TAGGED_SHIFT;
	/* Release: what this holder wrote is visible to the winner of the frame. */
	uint64_t old = page_ref_sub_release_64(&ref->word, sub);
	uint32_t left = tagged_count(old) - n;

	if (left - 1 < PAGE_REF_SATURATED - 1)
		return false;
	if (left == 0) {
		*dying = tagged_live(0, old);
		return true;
	}
	tagged_pin(ref, PAGE_REF_SATURATED);
	return false;
}

/* The second step of put. True if the caller froze the frame. */
static inline bool tagged_put_second(struct tagged_ref *ref, uint64_t dying)
{
	/* Acquire: sees what every holder wrote before its put. */
	return page_ref_cas_acquire_64(&ref->word, &dying, tagged_next_frozen(dying));
}

/* Returns n references. True if they were the last: the caller owns the frame. */
static inline bool tagged_put(struct tagged_ref *ref, uint32_t n)
{
	uint64_t dying;

	return tagged_put_first(ref, n, &dying) && tagged_put_second(ref, dying);
}

/* Takes exclusive control if exactly expected references exist. They are consumed. */
static inline bool tagged_freeze(struct tagged_ref *ref, uint32_t expected)
{
	uint64_t live = tagged_live(
		expected, TAGGED_GENERATION ? page_ref_load_relaxed_64(&ref->word) : 0);

	/* Acquire: the new owner may overwrite what earlier holders read. */
	return page_ref_cas_acquire_64(&ref->word, &live, tagged_next_frozen(live));
}

/* Returns one reference, for a caller that expects it to be the last. */
static inline bool tagged_put_expecting_last(struct tagged_ref *ref)
{
	return tagged_freeze(ref, 1) || tagged_put(ref, 1);
}

/* Ends the freeze with n references, for the owner. */
static inline void tagged_unfreeze(struct tagged_ref *ref, uint32_t n)
{
	uint64_t frozen =
		TAGGED_GENERATION ? page_ref_load_relaxed_64(&ref->word) : 0;

	/* Release: publishes the frame to every successful try_get. */
	page_ref_store_release_64(&ref->word, tagged_live(n, frozen));
}

/* The greatest tag. The number above it stands for an owner. */
#define TAGGED_MAX_TAG ((TAGGED_TAG >> 60) - 1)

/* Returns the frozen word under a tag, in the generation of word. */
static inline uint64_t tagged_left(uint8_t tag, uint64_t word)
{
	return TAGGED_FROZEN | (word & TAGGED_GENERATION) | ((uint64_t)tag << 60);
}

/* Takes exclusive control of a frame that was left frozen under tag. */
static inline bool tagged_try_claim(struct tagged_ref *ref, uint8_t tag)
{
	uint64_t now = page_ref_load_relaxed_64(&ref->word);
	uint64_t tagged = (uint64_t)tag << 60;

	while (tagged_is_frozen(now) && (now & TAGGED_TAG) == tagged) {
		uint64_t held = TAGGED_FROZEN | (now & TAGGED_GENERATION) | TAGGED_TAG;

		/* Acquire: sees what the last owner wrote. */
		if (page_ref_cas_acquire_64(&ref->word, &now, held))
			return true;
	}
	return false;
}

/* Leaves the frame frozen under tag, for the owner. */
static inline void tagged_leave_frozen_as(struct tagged_ref *ref, uint8_t tag)
{
	uint64_t held = page_ref_load_relaxed_64(&ref->word);

	/* Release: publishes the frame to the thread that claims it. */
	page_ref_store_release_64(&ref->word, tagged_left(tag, held));
}

#endif /* PAGE_REF_H */
