/* A stand-in for Linux's atomics, by the compiler's. */
#include <stdbool.h>
#include <stdint.h>
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	int64_t counter;
} atomic64_t;
#define ATOMIC_INIT(value) { value }
#define ATOMIC64_INIT(value) { value }
#define LINUX_ATOMICS(name, type, value)                                                           \
	static inline value name##_read(const type *v)                                             \
	{                                                                                          \
		return __atomic_load_n(&v->counter, __ATOMIC_RELAXED);                             \
	}                                                                                          \
	static inline void name##_set(type *v, value i)                                            \
	{                                                                                          \
		__atomic_store_n(&v->counter, i, __ATOMIC_RELAXED);                                \
	}                                                                                          \
	static inline void name##_set_release(type *v, value i)                                    \
	{                                                                                          \
		__atomic_store_n(&v->counter, i, __ATOMIC_RELEASE);                                \
	}                                                                                          \
	static inline value name##_fetch_add_acquire(value i, type *v)                             \
	{                                                                                          \
		return __atomic_fetch_add(&v->counter, i, __ATOMIC_ACQUIRE);                       \
	}                                                                                          \
	static inline value name##_fetch_add_relaxed(value i, type *v)                             \
	{                                                                                          \
		return __atomic_fetch_add(&v->counter, i, __ATOMIC_RELAXED);                       \
	}                                                                                          \
	static inline value name##_fetch_sub_release(value i, type *v)                             \
	{                                                                                          \
		return __atomic_fetch_sub(&v->counter, i, __ATOMIC_RELEASE);                       \
	}                                                                                          \
	static inline bool name##_try_cmpxchg_acquire(type *v, value *old, value new)              \
	{                                                                                          \
		return __atomic_compare_exchange_n(&v->counter, old, new, false, __ATOMIC_ACQUIRE, \
						   __ATOMIC_RELAXED);                              \
	}                                                                                          \
	static inline bool name##_try_cmpxchg_relaxed(type *v, value *old, value new)              \
	{                                                                                          \
		return __atomic_compare_exchange_n(&v->counter, old, new, false, __ATOMIC_RELAXED, \
						   __ATOMIC_RELAXED);                              \
	}
LINUX_ATOMICS(atomic, atomic_t, int)
LINUX_ATOMICS(atomic64, atomic64_t, int64_t)
