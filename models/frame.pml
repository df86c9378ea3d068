/* Frames, their words, and all processes that use them: the rules R1 to R8, checked in every interleaving.
 *
 * SPIN runs one atomic step of one process after the other, so memory is sequentially consistent. R6 is checked beside
 * it by views (VIEWS): the set of accesses that each process knows to have happened, handed on by the orderings of the
 * operations. Blind spot: a plain load of the word that returns an older value. No rule rests on one.
 *
 * Switches (-DNAME=value); `cargo x prove` has the list of configurations:
 *   SCHEME     0 zero-frozen, 1 frozen-bit, 2 live-bit-high, 3 live-bit-low, 4 generational, 5 tagged: there the allocators
 *              have no list of free frames, but claim them by their tag
 *   FRAMES     1, or 2: then allocations of both frames have a tail, or are split
 *   WALKERS ALLOCATORS FREEZERS OFFLINERS HOARDERS UNCOUNTED    the number of processes of each kind
 *   READERS MIGRATORS    they share an index with one slot (needs FRAMES=2)
 *   GETS       attempts of each reader; LIVES: the total number of lifetimes of frames
 *   CB GB TB   bits of count, generation and tag; LIM: stale increments from which a refused try_get resets them
 *   VIEWS      check R6, with at most 7 processes
 * Broken on purpose (each must be refuted): EARLY UNDO_SUB RELAXED_CAS RELAXED_PUT RELAXED_GET RELAXED_FREEZE RELAXED_INIT
 *   RELAXED_CLAIM RELAXED_LEAVE CLAIM_KEEPS RESET_LOSES
 *   FREED_DYING PUT_CLEARS TAIL_LIVE NO_RECHECK INIT_RMW ZEROED FREEZE_OFF NOT_BUMPED BY_COUNT NO_SATURATION RESET_ONCE NO_RESET
 */
#ifndef SCHEME
#define SCHEME 4
#endif
#ifndef FRAMES
#define FRAMES 1
#endif
#ifndef WALKERS
#define WALKERS 0
#endif
#ifndef READERS
#define READERS 0
#endif
#ifndef ALLOCATORS
#define ALLOCATORS 0
#endif
#ifndef FREEZERS
#define FREEZERS 0
#endif
#ifndef OFFLINERS
#define OFFLINERS 0
#endif
#ifndef MIGRATORS
#define MIGRATORS 0
#endif
#ifndef HOARDERS
#define HOARDERS 0
#endif
#ifndef UNCOUNTED
#define UNCOUNTED 0
#endif
#ifndef GETS
#define GETS 1
#endif
#ifndef LIVES
#define LIVES 2
#endif
#ifndef CB
#define CB 4
#endif
#ifndef GB
#define GB 2
#endif
#ifndef TB
#define TB 2
#endif
#ifndef LIM
#define LIM 6
#endif

#define PROCESSES (1 + WALKERS + READERS + ALLOCATORS + FREEZERS + OFFLINERS + MIGRATORS + HOARDERS + UNCOUNTED)
#define SATURATED (1 << (CB - 1))
#define PINNED (SATURATED + SATURATED / 2)
#define CM ((1 << CB) - 1)

/* The encodings, as in crates/folio-ref/src/schemes/. */
#if SCHEME == 0
#define BITS CB
#define UNIT 1
#define FROZEN(x) ((x) == 0)
#define COUNT(x) (x)
#define LIVE(n, x) (n)
#define NEXT(x) 0
#define QUIET(x) 0
#elif SCHEME == 1
#define BITS (CB + 1)
#define UNIT 1
#define FROZEN(x) (((x) >> CB) & 1)
#define COUNT(x) ((x) & CM)
#define LIVE(n, x) (n)
#define NEXT(x) (1 << CB)
#define QUIET(x) (1 << CB)
#elif SCHEME == 2
#define BITS (CB + 1)
#define UNIT 1
#define FROZEN(x) ((((x) >> CB) & 1) == 0)
#define COUNT(x) ((x) & CM)
#define LIVE(n, x) ((1 << CB) + (n))
#define NEXT(x) 0
#define QUIET(x) 0
#elif SCHEME == 3
#define BITS (CB + 1)
#define UNIT 2
#define FROZEN(x) (((x) & 1) == 0)
#define COUNT(x) ((x) >> 1)
#define LIVE(n, x) (2 * (n) + 1)
#define NEXT(x) 0
#define QUIET(x) 0
#elif SCHEME == 5
#define BITS (CB + GB + TB + 1)
#define UNIT 1
#define GM (((1 << GB) - 1) << CB)
/* All ones: an exclusive handle exists. The other tags are numbers. */
#define HELD (((1 << TB) - 1) << (CB + GB))
#define UNUSED 0
#define UNIQUE (1 << (CB + GB))
#define TAG(x) ((x) & HELD)
#define FROZEN(x) (((x) >> (CB + GB + TB)) == 0)
#define COUNT(x) ((x) & CM)
#define LIVE(n, x) ((1 << (CB + GB + TB)) | ((x) & GM) | (n))
#define NEXT(x) (HELD | ((((x) & GM) + (1 << CB)) & GM))
#define LEFT(tag, x) ((tag) | ((x) & GM))
#ifdef RESET_LOSES
#define QUIET(x) ((x) & GM)
#else
#define QUIET(x) ((x) & (GM | HELD))
#endif
#ifdef CLAIM_KEEPS
#define CLAIMED(x) QUIET(x)
#else
#define CLAIMED(x) LEFT(HELD, x)
#endif
#else
#define BITS (CB + GB + 1)
#define UNIT 1
#define GM (((1 << GB) - 1) << CB)
#define FROZEN(x) (((x) >> (CB + GB)) == 0)
#define COUNT(x) ((x) & CM)
#define LIVE(n, x) ((1 << (CB + GB)) | ((x) & GM) | (n))
#ifdef NOT_BUMPED
#define NEXT(x) ((x) & GM)
#else
#define NEXT(x) ((((x) & GM) + (1 << CB)) & GM)
#endif
#define QUIET(x) ((x) & GM)
#endif
#define MASK ((1 << BITS) - 1)

/* The kinds of a frame. Lifetimes have numbers, so a frame that is used again is another one. */
#define FREE 0
#define TAIL 100
/* The owners: the process or place with exclusive control. */
#define NOBODY 0
#define LIST 200
#define KEPT 201 /* left frozen under a tag that no other process claims */
#define ME (me + 1)

short w[FRAMES];       /* the words */
byte kind[FRAMES];     /* the kind of each frame */
byte owner[FRAMES];    /* ghost: the owner with exclusive control */
byte refs[FRAMES];     /* ghost: references that are really held */
bool leaked[FRAMES];   /* ghost: saturated, never to be freed */
byte lives = 1;
byte slot;             /* the index: frame + 1, or 0 */
bool claimed;          /* the slot's page lock */

#ifdef VIEWS
byte accesses[FRAMES];                /* processes that touched the bytes since the last owner wrote them, it included */
byte known[PROCESSES * FRAMES];       /* by each process: accesses that happened before, and WROTE */
byte carried[FRAMES];                 /* by the word */
byte handed[FRAMES];                  /* by the allocator's lock */
#define KNOWN(f) known[me * FRAMES + (f)]
#define BIT (1 << me)
#define WROTE 128                     /* the last owner's write happened before; so at most 7 processes */
/* An access happened: only this process knows it yet. */
inline happened(f, what, t) {
  t = 0;
  do
  :: t < PROCESSES -> known[t * FRAMES + f] = known[t * FRAMES + f] & ~(what); t++
  :: else -> break
  od;
  t = 0;
  carried[f] = carried[f] & ~(what); handed[f] = handed[f] & ~(what);
  KNOWN(f) = KNOWN(f) | (what)
}
#define ACQUIRE(f) KNOWN(f) = KNOWN(f) | carried[f]
/* A read-modify-write continues the release sequence: the word keeps what it carried. */
#define RELEASE_RMW(f) carried[f] = carried[f] | KNOWN(f)
#define RELEASE_STORE(f) carried[f] = KNOWN(f)
#define RELAXED_STORE(f) carried[f] = 0
#define HAND(f) handed[f] = KNOWN(f)
#define TAKE(f) KNOWN(f) = KNOWN(f) | handed[f]
#define READ_BYTES(f, t) assert(KNOWN(f) & WROTE); accesses[f] = accesses[f] | BIT; happened(f, BIT, t)
#define OWN_BYTES(f, t) assert((accesses[f] & ~KNOWN(f)) == 0); accesses[f] = BIT; happened(f, BIT | WROTE, t)
#else
#define ACQUIRE(f) skip
#define RELEASE_RMW(f) skip
#define RELEASE_STORE(f) skip
#define RELAXED_STORE(f) skip
#define HAND(f) skip
#define TAKE(f) skip
#define READ_BYTES(f, t) skip
#define OWN_BYTES(f, t) skip
#endif
#ifdef RELAXED_GET
#define ACQUIRE_GET(f) skip
#else
#define ACQUIRE_GET(f) ACQUIRE(f)
#endif
#ifdef RELAXED_CAS
#define ACQUIRE_CAS(f) skip
#else
#define ACQUIRE_CAS(f) ACQUIRE(f)
#endif
#ifdef RELAXED_FREEZE
#define ACQUIRE_FREEZE(f) skip
#else
#define ACQUIRE_FREEZE(f) ACQUIRE(f)
#endif
#ifdef RELAXED_CLAIM
#define ACQUIRE_CLAIM(f) skip
#else
#define ACQUIRE_CLAIM(f) ACQUIRE(f)
#endif
#ifdef RELAXED_LEAVE
#define RELEASE_LEAVE(f) RELAXED_STORE(f)
#else
#define RELEASE_LEAVE(f) RELEASE_STORE(f)
#endif
#ifdef RELAXED_PUT
#define RELEASE_PUT(f) skip
#else
#define RELEASE_PUT(f) RELEASE_RMW(f)
#endif
#ifdef RELAXED_INIT
#define RELEASE_INIT(f) RELAXED_STORE(f)
#else
#define RELEASE_INIT(f) RELEASE_STORE(f)
#endif

/* After every write to a word. R2: no process clears the frozen state of another's frame. R3, R5: a leaked frame is
 * never owned. R5: stale increments are bounded by the threshold and one increment of each process. */
#define CHECK(f) assert(owner[f] == NOBODY || FROZEN(w[f])); assert(!leaked[f] || owner[f] == NOBODY); \
  assert(owner[f] == NOBODY || COUNT(w[f]) <= LIM - 1 + PROCESSES)

#if SCHEME == 5
#undef CHECK
/* R2: also the tag of an owned frame stays. What its owner left it as stays until a claim. */
#define CHECK(f) assert(owner[f] == NOBODY || FROZEN(w[f])); assert(!leaked[f] || owner[f] == NOBODY); \
  assert(owner[f] == NOBODY || COUNT(w[f]) <= LIM - 1 + PROCESSES); \
  assert(owner[f] == NOBODY || TAG(w[f]) == (owner[f] == LIST -> UNUSED : (owner[f] == KEPT -> UNIQUE : HELD)))
#endif

/* Lifts a saturated count far above the limit. */
inline pin(f, from) {
  atomic { if :: !FROZEN(w[f]) && COUNT(w[f]) >= from -> w[f] = LIVE(PINNED, w[f]); leaked[f] = true :: else fi }
}

inline try_get(f, old, got) {
#if SCHEME == 0
  old = w[f];
  got = 2;
  do
  :: got == 2 && FROZEN(old) -> got = 0
  :: got == 2 && !FROZEN(old) && COUNT(old) >= SATURATED - 1 -> pin(f, SATURATED - 1); got = 0
  :: got == 2 && !FROZEN(old) && COUNT(old) < SATURATED - 1 ->
     atomic {
       if
       :: w[f] == old -> w[f] = old + 1; refs[f]++; ACQUIRE_GET(f); CHECK(f); got = 1
       :: else -> old = w[f]
       fi
     }
  :: got != 2 -> break
  od;
#else
  atomic {
    old = w[f];
    w[f] = (old + UNIT) & MASK;
    if
#ifdef NO_SATURATION
    :: !FROZEN(old) -> refs[f]++; ACQUIRE_GET(f); got = 1
#else
    :: !FROZEN(old) && COUNT(old) < SATURATED - 1 -> refs[f]++; ACQUIRE_GET(f); got = 1
#endif
    :: else -> got = 0
    fi;
    CHECK(f)
  }
  if
  :: got -> skip
  :: !got && !FROZEN(old) -> pin(f, 0)
  :: !got && FROZEN(old) ->
#ifdef UNDO_SUB
     atomic { w[f] = (w[f] - UNIT) & MASK; CHECK(f) }
#elif defined(NO_RESET)
     skip
#else
     old = (old + UNIT) & MASK;
     do
     :: FROZEN(old) && COUNT(old) >= LIM ->
        atomic { if :: w[f] == old -> w[f] = QUIET(old); old = QUIET(old) :: else -> old = w[f]; 
#ifdef RESET_ONCE
          old = QUIET(old)
#endif
          fi; CHECK(f) }
     :: else -> break
     od
#endif
  fi;
#endif
  old = 0;
  /* R1: a new reference is on a frame that is in use and has no owner. */
  atomic { if :: got -> assert(kind[f] != FREE && kind[f] != TAIL && owner[f] == NOBODY) :: else fi }
}

#if SCHEME == 5
/* The owner leaves the frame under a tag. The part of the word that it keeps is loaded before, as in the code. */
inline leave(f, tag, to, old) {
  old = w[f];
  atomic { assert(owner[f] == ME); w[f] = LEFT(tag, old); RELEASE_LEAVE(f); owner[f] = to; CHECK(f) }
  old = 0
}

/* Takes a frame that was left under a tag: a load, then a loop of compare-and-swaps. */
inline claim(f, tag, from, old, won) {
  old = w[f];
  won = 2;
  do
  :: won == 2 && FROZEN(old) && TAG(old) == tag ->
     atomic {
       if
       :: w[f] == old ->
          /* R3: no other process owns it. */
          assert(owner[f] == from);
          w[f] = CLAIMED(old); owner[f] = ME; ACQUIRE_CLAIM(f);
#ifndef CLAIM_KEEPS
          CHECK(f);
#endif
          won = 1
       :: else -> old = w[f]
       fi
     }
  :: won == 2 && !(FROZEN(old) && TAG(old) == tag) -> won = 0
  :: won != 2 -> break
  od;
  old = 0
}
#endif

/* The allocator takes a frame back, and its tail with it. */
inline release(f, old) {
#if SCHEME == 5
  kind[f] = FREE;
  leave(f, UNUSED, LIST, old)
#else
  atomic {
    kind[f] = FREE;
#if FRAMES == 2
    if :: f == 0 && kind[1] == TAIL -> kind[1] = FREE; owner[1] = LIST; HAND(1) :: else fi;
#endif
#ifdef FREED_DYING
    w[f] = LIVE(0, w[f]);
#endif
    owner[f] = LIST; HAND(f); CHECK(f)
  }
#endif
}

/* Exclusive control of f has been won: runs the destructor of the kind `what`. */
inline destroy(f, what, t, old) {
#ifndef EARLY
  what = kind[f];
#endif
  /* R3: no process holds it, and it was not destroyed before. R4: the right destructor. */
  atomic { assert(refs[f] == 0 && kind[f] != FREE); assert(what == kind[f]); OWN_BYTES(f, t) }
  release(f, old);
  what = 0
}

inline put(f, old, what, t) {
#ifdef EARLY
  what = kind[f];
#endif
  atomic {
    old = w[f];
    assert(!FROZEN(old));
    w[f] = (old - UNIT) & MASK;
    refs[f]--;
    RELEASE_PUT(f);
#if SCHEME == 0
    if :: COUNT(old) == 1 -> assert(owner[f] == NOBODY); ACQUIRE_CAS(f); owner[f] = ME :: else fi;
#endif
    CHECK(f)
  }
  if
  :: COUNT(old) == 1 ->
#if SCHEME != 0
     atomic {
       if
       :: w[f] == LIVE(0, old) ->
          assert(owner[f] == NOBODY);
#ifdef PUT_CLEARS
          w[f] = LIVE(1, old);
#else
          w[f] = NEXT(old);
#endif
          owner[f] = ME; ACQUIRE_CAS(f); CHECK(f)
       :: else -> old = 0
       fi
     }
     if :: old != 0 || SCHEME == 0 -> destroy(f, what, t, old) :: else fi
#else
     destroy(f, what, t, old)
#endif
  :: COUNT(old) != 1 && COUNT(old) > SATURATED -> pin(f, SATURATED)
  :: else
  fi;
  old = 0; what = 0
}

/* Freezes if the one reference that is held by the caller, or for it, is the only one. */
inline freeze(f, won) {
  atomic {
    if
#ifdef FREEZE_OFF
    :: !FROZEN(w[f]) && COUNT(w[f]) == 2 ->
#else
    :: !FROZEN(w[f]) && COUNT(w[f]) == 1 ->
#endif
       assert(refs[f] == 1);
       w[f] = NEXT(w[f]); refs[f] = 0; owner[f] = ME; ACQUIRE_FREEZE(f); won = true; CHECK(f)
    :: else -> won = false
    fi
  }
}

/* The owner opens the frame. The part of the word that it keeps is loaded before, as in the code. */
inline unfreeze(f, old) {
#if SCHEME >= 4
  old = w[f];
#endif
  atomic {
    assert(owner[f] == ME);
#ifdef INIT_RMW
    w[f] = (w[f] + LIVE(1, old) - QUIET(old)) & MASK;
#else
    w[f] = LIVE(1, old);
#endif
    owner[f] = NOBODY; refs[f] = 1; RELEASE_INIT(f); assert(!FROZEN(w[f]) && COUNT(w[f]) == 1)
  }
  old = 0
}

inline use(f, t) {
  atomic { assert(owner[f] == NOBODY && refs[f] > 0); READ_BYTES(f, t) }
}

/* The first holder: frame 0 begins with one reference. With an index, the slot holds it. */
proctype Holder(byte me) {
  short old; byte what, t;
  use(0, t);
  put(0, old, what, t)
}

/* Takes a reference on any frame, by its number. Keeps it only if the frame is still the same (R8). */
proctype Walker(byte me) {
  short old; byte what, t, f, n, want; byte got;
  do
  :: n < GETS ->
     n++;
     if :: f = 0
#if FRAMES == 2
     :: f = 1
#endif
     fi;
     want = kind[f];
     try_get(f, old, got);
     if
     :: got ->
#ifndef NO_RECHECK
        if :: kind[f] != want -> got = 0 :: else fi;
#endif
        if :: got -> atomic { assert(kind[f] == want) } use(f, t) :: else fi;
        put(f, old, what, t)
     :: else
     fi;
     atomic { got = 0; want = 0; f = 0 }
  :: else -> break
  od
}

/* Looks a page up by its slot. */
proctype Reader(byte me) {
  short old; byte what, t, f, n, seen; byte got;
  do
  :: n < GETS ->
     n++;
     seen = slot;
     if
     :: seen != 0 ->
        f = seen - 1;
        try_get(f, old, got);
        if
        :: got ->
#ifndef NO_RECHECK
           if :: slot != seen -> got = 0 :: else fi;
#endif
           /* The page is lifetime 1 in either frame: a migrated copy keeps the number. */
           if :: got -> atomic { assert(kind[f] == 1) } use(f, t) :: else fi;
           put(f, old, what, t)
        :: else
        fi
     :: else
     fi;
     atomic { got = 0; seen = 0; f = 0 }
  :: else -> break
  od
}

#if SCHEME == 5
/* Claims unused frames by their tag, beside other allocators. Keeps some as unique before it opens them. */
proctype Allocator(byte me) {
  short old; byte what, t, life, won;
  do
  :: atomic { lives < LIVES && owner[0] == LIST -> skip }
     claim(0, UNUSED, LIST, old, won);
     if
     :: won ->
        atomic { lives++; life = lives }
        kind[0] = life;
        atomic { OWN_BYTES(0, t) }
        if
        :: leave(0, UNIQUE, KEPT, old); claim(0, UNIQUE, KEPT, old, won); assert(won == 1)
        :: skip
        fi;
        unfreeze(0, old);
        use(0, t);
        atomic { assert(kind[0] == life) }
        put(0, old, what, t)
     :: else
     fi;
     atomic { life = 0; won = 0 }
  :: atomic { lives >= LIVES || leaked[0] -> break }
  od
}
#else
proctype Allocator(byte me) {
  short old; byte what, t, f, life;
  do
#if FRAMES == 2
  :: atomic { owner[0] == LIST && owner[1] == LIST && lives < LIVES ->
       owner[0] = ME; owner[1] = ME; TAKE(0); TAKE(1); lives++; life = lives }
     kind[0] = life;
     kind[1] = TAIL;
#ifdef TAIL_LIVE
     atomic { w[1] = LIVE(1, w[1]); CHECK(1) }
#endif
     atomic { OWN_BYTES(0, t) }
     atomic { OWN_BYTES(1, t) }
     if
     :: unfreeze(0, old); use(0, t); atomic { assert(FROZEN(w[1])) }
     :: /* split: the former tail is now a head of its own */
        kind[1] = life; unfreeze(1, old); unfreeze(0, old); use(1, t); put(1, old, what, t)
     fi;
     put(0, old, what, t); life = 0
#endif
  :: atomic {
       lives < LIVES ->
       if
       :: owner[0] == LIST -> f = 0
#if FRAMES == 2
       :: owner[1] == LIST -> f = 1
#endif
       fi;
       owner[f] = ME; TAKE(f); lives++; life = lives
     }
     kind[f] = life;
     atomic { OWN_BYTES(f, t) }
     unfreeze(f, old);
     use(f, t);
     atomic { assert(kind[f] == life) }
     put(f, old, what, t);
     atomic { life = 0; f = 0 }
  :: atomic { lives >= LIVES || leaked[0] -> break }
  od
}
#endif

/* Takes a reference, tries to freeze, and then changes or frees the frame. */
proctype Freezer(byte me) {
  short old; byte what, t; byte got; bool won;
  try_get(0, old, got);
  if
  :: got ->
     freeze(0, won);
     if
     :: won ->
        atomic { OWN_BYTES(0, t) }
        if
        :: unfreeze(0, old); use(0, t); put(0, old, what, t)
        :: release(0, old)
        fi
     :: else -> put(0, old, what, t)
     fi
  :: else
  fi
}

/* Takes a free frame out of the allocator, and returns it. A late put may run meanwhile (R7). */
proctype Offliner(byte me) {
  byte n;
  do
  :: n < 1 ->
     n++;
     if
     :: atomic { owner[0] == LIST -> owner[0] = ME }
#ifdef ZEROED
        /* Its metadata was returned with it, and is zeroes now. */
        atomic { w[0] = 0; CHECK(0) }
#endif
        atomic { assert(owner[0] == ME && FROZEN(w[0])); owner[0] = LIST }
     :: timeout -> skip
     fi
  :: else -> break
  od
}

/* Moves the page to the other frame. At the end removes it from the index. */
proctype Migrator(byte me) {
  short old; byte what, t, f, to, n; bool won;
  do
  :: n < 2 ->
     n++;
     atomic { !claimed -> if :: slot != 0 -> claimed = true; f = slot - 1 :: else -> f = 255 fi }
     if
     :: f != 255 ->
        to = 1 - f;
        freeze(f, won);
        if
        :: won ->
           if
           :: atomic { owner[to] == LIST -> owner[to] = ME; TAKE(to) }
              atomic { OWN_BYTES(to, t) }
              kind[to] = kind[f];
              unfreeze(to, old);
              /* The unlock of the slot is a Release that every lookup acquires. The views follow the word alone. */
              atomic { slot = to + 1; claimed = false }
              release(f, old)
           :: else ->
              /* No room: back out. */
              unfreeze(f, old);
              claimed = false
           fi
        :: else -> claimed = false
        fi
     :: else
     fi;
     atomic { f = 0; to = 0; won = false }
  :: else -> break
  od;
  atomic { !claimed -> f = slot; slot = 0 }
  if :: f != 0 -> put(f - 1, old, what, t) :: else fi
}

/* Takes references by `get`, which is never refused. They are returned, or leaked. */
proctype Hoarder(byte me) {
  short old; byte what, t, n; byte got;
  try_get(0, old, got);
  if
  :: got ->
     n = 1;
     do
     :: n > 0 && n < GETS ->
        atomic {
          old = w[0];
          assert(!FROZEN(old));
          w[0] = (old + UNIT) & MASK; refs[0]++; n++;
          /* R5: no number of them carries the count into the frozen encoding. */
          assert(!FROZEN(w[0]));
          CHECK(0)
        }
#ifndef NO_SATURATION
        if :: COUNT(old) >= SATURATED - 1 -> pin(0, SATURATED) :: else fi
#endif
     :: n > 0 -> put(0, old, what, t); n--
     :: n == 0 -> break
     od
  :: else
  fi;
  old = 0
}

/* An optimistic read: word, bytes, word again. */
proctype Uncounted(byte me) {
  short old; byte n, saw;
  do
  :: n < GETS ->
     n++;
     old = w[0];
     if
     :: !FROZEN(old) && COUNT(old) > 0 ->
        saw = kind[0];
        atomic {
          if
#ifdef BY_COUNT
          :: !FROZEN(w[0]) && COUNT(w[0]) == COUNT(old) ->
#else
          :: !FROZEN(w[0]) && QUIET(w[0]) == QUIET(old) ->
#endif
             /* Nothing changed under it: it read the present bytes. */
             assert(saw == kind[0])
          :: else
          fi
        }
     :: else
     fi;
     atomic { old = 0; saw = 0 }
  :: else -> break
  od
}

init {
  byte p;
  atomic {
    w[0] = LIVE(1, 0); kind[0] = 1; refs[0] = 1;
#if FRAMES == 2
    w[1] = QUIET(NEXT(0)); owner[1] = LIST;
#endif
#ifdef VIEWS
    do :: p < PROCESSES * FRAMES -> known[p] = WROTE; p++ :: else -> break od;
    p = 0;
    carried[0] = WROTE;
#endif
#if MIGRATORS > 0
    slot = 1;
#else
    run Holder(p);
#endif
    p = 1;
    do :: p < 1 + WALKERS -> run Walker(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS -> run Reader(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS + ALLOCATORS -> run Allocator(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS + ALLOCATORS + FREEZERS -> run Freezer(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS + ALLOCATORS + FREEZERS + OFFLINERS -> run Offliner(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS + ALLOCATORS + FREEZERS + OFFLINERS + MIGRATORS -> run Migrator(p); p++ :: else -> break od;
    do :: p < 1 + WALKERS + READERS + ALLOCATORS + FREEZERS + OFFLINERS + MIGRATORS + HOARDERS -> run Hoarder(p); p++ :: else -> break od;
    do :: p < PROCESSES -> run Uncounted(p); p++ :: else -> break od;
  }
  /* At the end: every frame is free and frozen, or leaked because its count was saturated. */
  _nr_pr == 1;
  p = 0;
  do
  :: p < FRAMES -> assert(leaked[p] || (owner[p] == LIST && kind[p] == FREE && refs[p] == 0 && FROZEN(w[p]))); p++
  :: else -> break
  od
}
