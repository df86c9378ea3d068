/* A stand-in for Linux's types. */
#include <stdbool.h>
#include <stdint.h>
typedef int64_t s64;
