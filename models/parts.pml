/* A multi-slot folio: each frame has a slot of its own. subpages.rs of folio-frames with slot.rs and lock.rs, in every
 * interleaving.
 *
 * In the beginning frames 0 to N - 1 are one folio, and slot s has frame s. Changers split it, empty slots, put other
 * folios in their place, write and take away frames that are folios of their own, and join all again. The content of a
 * page has a number, which each change increments. A reader that takes a reference by a slot must have one of the folio
 * that the frame belongs to, with the content of the slot's page at that moment, until the reference is put. In the end
 * each frame is free, or held by the references of the slots that name it and no others.
 *
 * Memory is sequentially consistent. The word is a count and a frozen state: its encodings, stale increments and late
 * steps are in frame.pml, the fences of an optimistic read in slot.pml. Steps that no other process can observe are one
 * step: freeing, and unlocking several pages.
 *
 * Switches (-DNAME=value); `cargo x prove` has the list of configurations:
 *   ORDER      of the folio, 1 or 2; SPARES: frames beside it, 0 or 1
 *   READERS UNCOUNTED WALKERS OTHERS CHANGERS    the number of processes of each kind; GETS: attempts of each reader and walker
 *   CHANGES    the total number of changes; VB: bits of the version
 * Broken on purpose (each must be refuted): HEAD_FIRST NO_RECHECK RECHECK_FRAME_ONLY SPLIT_ONE_MORE SPLIT_SKIPS_CLAIM SPLIT_KEEPS_LEFT
 * JOIN_SLOTS_FIRST JOIN_ONE_LESS FREEZE_PART NOT_BUMPED
 */
#ifndef ORDER
#define ORDER 1
#endif
#ifndef SPARES
#define SPARES 0
#endif
#ifndef READERS
#define READERS 0
#endif
#ifndef UNCOUNTED
#define UNCOUNTED 0
#endif
#ifndef WALKERS
#define WALKERS 0
#endif
#ifndef OTHERS
#define OTHERS 0
#endif
#ifndef CHANGERS
#define CHANGERS 1
#endif
#ifndef CHANGES
#define CHANGES 3
#endif
#ifndef GETS
#define GETS 1
#endif
#ifndef VB
#define VB 3
#endif

#if ORDER == 1
#define N 2
#else
#define N 4
#endif
#define FRAMES (N + SPARES)
#define NONE 255

/* The descriptors. A folio of several frames begins at frame 0. */
bool frozen[FRAMES];
byte count[FRAMES];
byte shape[FRAMES];
#define FREE 0
#define ONE 1
#define ALL 2
#define TAIL 3
byte private[FRAMES];  /* owner data: the slot of the page, or: */
#define ELSEWHERE 99
bool listed[FRAMES];   /* in the allocator */
byte content[FRAMES];

/* The slots. */
byte frame[N];
bool part[N];          /* the order: ORDER, or 0 */
bool claimed[N];
byte version[N];

byte page[N];          /* ghost: the content of the slot's page; 0: it is not in the cache */
byte written;          /* the last content number */
byte changes;

#if UNCOUNTED == 0 || defined(NOT_BUMPED)
#define BUMPED(s) version[s]
#else
#define BUMPED(s) ((version[s] + 1) % (1 << VB))
#endif
/* The references of a joining changer: those of the slots and its own. */
#ifdef JOIN_ONE_LESS
#define OPENED N
#else
#define OPENED (N + 1)
#endif
#define HEAD(f, is_part) ((is_part) -> 0 : (f))
/* True if a reference on h keeps f: a word that is not frozen, of the folio that f belongs to. */
#define KEEPS(h, f) (!frozen[h] && count[h] > 0 && ((f) == (h) && (shape[h] == ONE || shape[h] == ALL) || shape[h] == ALL && shape[f] == TAIL))

/* The unlock of a page: one swap. */
inline finish(s, value, is_part) {
#ifndef SPLIT_SKIPS_CLAIM
  assert(claimed[s]);
#endif
  frame[s] = (value); part[s] = (is_part); version[s] = BUMPED(s); claimed[s] = false
}

/* The end of an exclusive handle: with n references, or in the allocator. */
inline unfreeze(f, n) {
  assert(frozen[f] && !listed[f] && (shape[f] == ONE || shape[f] == ALL));
  frozen[f] = false; count[f] = (n)
}
inline free_one(f) {
  assert(frozen[f] && !listed[f] && shape[f] != FREE);
  shape[f] = FREE; listed[f] = true
}
inline free(h, t) {
  if
  :: shape[h] == ALL ->
     t = 0;
     do
     :: t < N -> assert(t == h || shape[t] == TAIL); free_one(t); t++
     :: else -> break
     od;
     t = 0
  :: else -> assert(shape[h] == ONE); free_one(h)
  fi
}

inline write(f) {
  assert(frozen[f] && !listed[f]);
  written++; content[f] = written
}

/* From the allocator: an exclusive handle. Its shape is set before any process can find it. */
inline take(f, owner) {
  listed[f] = false; shape[f] = ONE; private[f] = (owner)
}

inline try_get(h, got) {
  atomic { if :: !frozen[h] -> count[h]++; got = true :: else fi }
}

/* The first step of a put runs at the last read of the bytes by its holder. The last put frees the folio of that moment. */
inline put_first(h, last) {
  assert(!frozen[h] && count[h] > 0);
  count[h]--; last = (count[h] == 0)
}
inline put_last(h, last, t) {
  if
  :: last -> atomic { if :: !frozen[h] && count[h] == 0 -> frozen[h] = true; free(h, t) :: else fi; last = false }
  :: else
  fi
}

/* A lookup (R8), and a check by the holder of the frames behind, if their slots have them. */
proctype Reader() {
  byte s, f, h, x, y, t, n; bool is_part, got, last;
  do
  :: n < GETS ->
     n++;
     atomic {
       if :: s = 0 :: s = 1
#if ORDER > 1
       :: s = N - 1
#endif
       fi;
       f = frame[s]; is_part = part[s]
     }
     if
     :: f != NONE ->
        h = HEAD(f, is_part);
        try_get(h, got);
        if
        :: got ->
           atomic {
#ifdef NO_RECHECK
             got = true;
#elif defined(RECHECK_FRAME_ONLY)
             got = (frame[s] == f);
#else
             got = (frame[s] == f && part[s] == is_part);
#endif
             if
             :: got -> assert(KEEPS(h, f)); x = content[f]; assert(x == page[s])
             :: else
             fi
           }
           if
           :: got && s + 1 < N && f + 1 < N ->
              atomic {
                if
                :: shape[h] == ALL && frame[s + 1] == f + 1 -> y = content[f + 1]; assert(y == page[s + 1])
                :: else
                fi
              }
           :: else
           fi;
           atomic {
             if
             :: got -> assert(KEEPS(h, f) && content[f] == x); assert(y == 0 || KEEPS(h, f + 1) && content[f + 1] == y)
             :: else
             fi;
             put_first(h, last)
           }
           put_last(h, last, t)
        :: else
        fi
     :: else
     fi;
     atomic { s = 0; f = 0; h = 0; x = 0; y = 0; is_part = false; got = false }
  :: else -> break
  od
}

/* An optimistic read: the entry, the bytes, all of the entry again. */
proctype Uncounted() {
  byte s, f, v, x, was; bool is_part;
  atomic {
    if :: s = 0 :: s = 1 fi;
    f = frame[s]; is_part = part[s]; v = version[s]; was = page[s];
    if :: f == NONE || claimed[s] -> goto done :: else fi
  }
  x = content[f];
  atomic {
    if
    :: frame[s] == f && part[s] == is_part && version[s] == v && !claimed[s] -> assert(x == was); assert(x == page[s])
    :: else
    fi
  }
done: skip
}

/* A walk by frame number: the nearest aligned head that covers it, a reference, and the head again. */
proctype Walker() {
  byte f, h, what, owner, x, t, n; bool got, last;
  do
  :: n < GETS ->
     n++;
     if :: f = 0 :: f = 1
#if ORDER > 1
     :: f = N - 1
#endif
     fi;
     h = f;
     what = shape[h];
#if ORDER > 1
     if :: what == TAIL -> h = f & 2; what = shape[h] :: else fi;
#endif
     if :: what == TAIL && h != 0 -> h = 0; what = shape[h] :: else fi;
     if
     :: what == ALL || what == ONE && h == f ->
        owner = private[h];
        try_get(h, got);
        if
        :: got ->
           atomic {
             got = (shape[h] == what && private[h] == owner);
             if :: got -> assert(KEEPS(h, f)); x = content[f] :: else fi
           }
           atomic {
             if :: got -> assert(KEEPS(h, f) && content[f] == x) :: else fi;
             put_first(h, last)
           }
           put_last(h, last, t)
        :: else
        fi
     :: else
     fi;
     atomic { f = 0; h = 0; what = 0; owner = 0; x = 0; got = false }
  :: else -> break
  od
}

/* A user of another file. */
proctype Other() {
  byte f, x, t; bool last;
  if
  :: atomic { listed[0] -> f = 0; take(f, ELSEWHERE) }
  :: atomic { listed[1] -> f = 1; take(f, ELSEWHERE) }
#if SPARES > 0
  :: atomic { listed[N] -> f = N; take(f, ELSEWHERE) }
#endif
  :: atomic { changes == CHANGES -> goto done }
  fi;
  atomic { write(f); x = content[f] }
  atomic { unfreeze(f, 1) }
  atomic { assert(KEEPS(f, f) && content[f] == x); put_first(f, last) }
  put_last(f, last, t);
done: skip
}

/* The split, under all page locks that can be taken. */
inline split() {
  j = 0; n = 0;
  do
  :: j < N ->
     atomic {
       if
       :: frame[j] == j && part[j] && !claimed[j] -> claimed[j] = true; mine[j] = true; n++
#ifdef SPLIT_SKIPS_CLAIM
       :: j == N - 1 && n > 0 && frame[j] == j && part[j] -> others[j] = true; n++
#endif
       :: else
       fi;
       j++
     }
  :: else -> break
  od;
  atomic {
    if
#ifdef SPLIT_ONE_MORE
    :: n > 0 && !frozen[0] && count[0] == n + 1 ->
#else
    :: n > 0 && !frozen[0] && count[0] == n ->
#endif
       assert(shape[0] == ALL); frozen[0] = true; count[0] = 0; won = true
    :: else
    fi;
    n = 0
  }
  if
  :: won ->
     j = N;
     do
     :: j > 0 -> atomic { j--; assert(frozen[j]); shape[j] = ONE }
     :: else -> break
     od;
     n = 0;
     do
     :: n < N ->
        atomic {
#ifdef HEAD_FIRST
          j = n;
#else
          j = (n + 1) % N;
#endif
          n++;
          if
          :: mine[j] -> unfreeze(j, 1)
#ifdef SPLIT_SKIPS_CLAIM
          :: others[j] -> mine[j] = true; others[j] = false; unfreeze(j, 1)
#endif
#ifdef SPLIT_KEEPS_LEFT
          :: else -> unfreeze(j, 1)
#else
          :: else -> free_one(j)
#endif
          fi
        }
        if
        :: mine[j] -> atomic { finish(j, j, false); mine[j] = false }
        :: else
        fi
     :: else -> break
     od
  :: else ->
     atomic {
       j = 0;
       do
       :: j < N -> if :: mine[j] -> claimed[j] = false; mine[j] = false :: else fi;
#ifdef SPLIT_SKIPS_CLAIM
          others[j] = false;
#endif
          j++
       :: else -> break
       od
     }
  fi;
  atomic { j = 0; n = 0; won = false; what = 0 }
}

/* Frozen slots, all of them, of new folios or the present ones: published as one, or each alone. */
inline make() {
  j = 0; won = true;
  do
  :: j < N && won ->
     if
     :: atomic { frame[j] == NONE && listed[j] -> take(j, j); claimed[j] = true; frame[j] = j; part[j] = false; mine[j] = true }
        atomic { write(j); page[j] = content[j] }
     :: atomic { frame[j] == j && !part[j] && !claimed[j] -> claimed[j] = true }
        atomic { if :: !frozen[j] && count[j] == 1 -> frozen[j] = true; count[j] = 0; mine[j] = true :: else -> claimed[j] = false; won = false fi }
     :: else -> won = false
     fi;
     j++
  :: else -> break
  od;
  if
  :: won ->
     j = 1;
     do
     :: j < N -> atomic { assert(frozen[j]); shape[j] = TAIL; j++ }
     :: else -> break
     od;
     shape[0] = ALL;
#ifndef JOIN_SLOTS_FIRST
     atomic { unfreeze(0, OPENED) }
#endif
     j = 0;
     do
     :: j < N -> atomic { finish(j, j, true); mine[j] = false; j++ }
     :: else -> break
     od;
#ifdef JOIN_SLOTS_FIRST
     atomic { unfreeze(0, OPENED) }
#endif
     /* The changer's own. */
     atomic { assert(KEEPS(0, 0) && KEEPS(0, 1)); put_first(0, last) }
     put_last(0, last, t)
  :: else ->
     j = 0;
     do
     :: j < N ->
        if :: mine[j] -> atomic { unfreeze(j, 1) } atomic { finish(j, j, false); mine[j] = false } :: else fi;
        j++
     :: else -> break
     od
  fi;
  atomic { j = 0; won = false; what = 0 }
}
/* One slot: its frame is written, moved or taken away if it is a folio of its own; otherwise the slot drops it. */
inline alter(s) {
  if
  :: atomic { frame[s] != NONE && !claimed[s] -> claimed[s] = true; f = frame[s]; h = HEAD(f, part[s]) }
     if
#ifdef FREEZE_PART
     :: atomic {
#else
     :: atomic { !part[s] ->
#endif
          if :: !frozen[h] && count[h] == 1 -> frozen[h] = true; count[h] = 0; won = true :: else fi }
     :: true
     fi;
     if
     :: won ->
        if
        :: atomic { write(f); page[s] = content[f] } atomic { unfreeze(f, 1) } atomic { finish(s, f, false) }
        :: atomic { finish(s, NONE, false); page[s] = 0 } atomic { free_one(f) }
#if SPARES > 0
        :: atomic { listed[N] -> take(N, s) } content[N] = content[f]; atomic { unfreeze(N, 1) } atomic { finish(s, N, false) } atomic { free_one(f) }
#endif
        fi
     :: else ->
        if
        :: atomic { claimed[s] = false }
        :: atomic { finish(s, NONE, false); page[s] = 0 } atomic { put_first(h, last) } put_last(h, last, t)
#if SPARES > 0
        :: atomic { listed[N] -> take(N, s) }
           atomic { write(N) }
           atomic { unfreeze(N, 1) }
           atomic { finish(s, N, false); page[s] = content[N] }
           atomic { put_first(h, last) }
           put_last(h, last, t)
#endif
        fi
     fi;
     atomic { f = 0; h = 0; won = false; what = 0 }
  :: else
  fi
}

#define SPLIT 100
#define MAKE 101
proctype Changer() {
  byte what, f, h, j, n, t; bool mine[N], won, last;
#ifdef SPLIT_SKIPS_CLAIM
  bool others[N];
#endif
  do
  :: atomic {
       changes < CHANGES -> changes++;
       if :: what = SPLIT :: what = MAKE :: what = 0 :: what = 1
#if ORDER > 1
       :: what = N - 1
#endif
       fi
     }
     if
     :: what == SPLIT -> split()
     :: what == MAKE -> make()
     :: else -> alter(what)
     fi
  :: else -> break
  od
}

init {
  byte p, n, f;
  atomic {
    do
    :: p < N ->
       frame[p] = p; part[p] = true; private[p] = p; written++; content[p] = written; page[p] = written;
       frozen[p] = p > 0; shape[p] = (p > 0 -> TAIL : ALL); p++
    :: else -> break
    od;
    count[0] = N;
    do
    :: p < FRAMES -> frozen[p] = true; listed[p] = true; p++
    :: else -> break
    od;
    p = 0; do :: p < READERS -> run Reader(); p++ :: else -> break od;
    p = 0; do :: p < UNCOUNTED -> run Uncounted(); p++ :: else -> break od;
    p = 0; do :: p < WALKERS -> run Walker(); p++ :: else -> break od;
    p = 0; do :: p < OTHERS -> run Other(); p++ :: else -> break od;
    p = 0; do :: p < CHANGERS -> run Changer(); p++ :: else -> break od;
    p = 0
  }
  _nr_pr == 1;
  /* The references of each folio are those of the slots that name it. A frame without a slot is free, or a tail. */
  atomic {
    do
    :: f < FRAMES ->
       p = 0; n = 0;
       do
       :: p < N ->
          if
          :: frame[p] != NONE && HEAD(frame[p], part[p]) == f -> n++; assert(KEEPS(f, frame[p]) && content[frame[p]] == page[p])
          :: else
          fi;
          assert(!claimed[p]);
          p++
       :: else -> break
       od;
       assert(count[f] == n && frozen[f] == (n == 0));
       assert(listed[f] == (shape[f] == FREE));
       assert(n > 0 || listed[f] || shape[f] == TAIL && shape[0] == ALL);
       f++
    :: else -> break
    od
  }
}
