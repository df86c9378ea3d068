/* A slot, and optimistic reads of its folio: optimistic.rs of folio-frames, in every interleaving.
 *
 * Two frames of two bytes each. The content of the slot's page has a number, which fills a whole frame, and each change
 * increments it. Frames in other use are full of OTHERS. A reader loads the slot, then both bytes one after the other,
 * then the slot again. If the slot is the same, both bytes must be the content that the page had all the time between.
 *
 * The word takes no part: it is in frame.pml. Here a page lock finds the folio its own or busy by chance (always busy
 * while a holder exists, which reads the bytes several times). A frame that is left to holders is returned at once or
 * never. So this holds under every scheme. Memory is sequentially consistent. Switches play what the two fences forbid:
 * they change the order of the steps as a processor could without the fences.
 *
 * Switches (-DNAME=value); `cargo x prove` has the list of configurations:
 *   READERS HOLDERS CHANGERS OTHER    the number of processes of each kind
 *   CHANGES    the total number of changes; VB: bits of the version
 * Broken on purpose (each must be refuted): NOT_BUMPED NO_SECOND BY_FRAME READ_CLAIMED LATE_CLAIM EARLY_SECOND
 * NOT_FROZEN
 */
#ifndef READERS
#define READERS 1
#endif
#ifndef HOLDERS
#define HOLDERS 0
#endif
#ifndef CHANGERS
#define CHANGERS 1
#endif
#ifndef OTHER
#define OTHER 1
#endif
#ifndef CHANGES
#define CHANGES 3
#endif
#ifndef VB
#define VB 3
#endif

#define EMPTY 2
#define OTHERS 99
#ifdef NOT_BUMPED
#define BUMPED version
#else
#define BUMPED ((version + 1) % (1 << VB))
#endif

byte b[4] = 1;         /* the bytes: frame f has 2f and 2f + 1 */
bool unused[2];        /* in the allocator; a frame that is neither there nor in the slot has holders, or is in other use */

byte held[2];          /* references of holders */
bool frozen[2];        /* of the frame in the slot: no reference can be taken */

/* The slot. */
byte frame;
bool claimed;
byte version;

byte content = 1;      /* ghost: the content of the page; 0: it is not in the cache */
byte changes;

inline write(which, value) {
  b[2 * (which)] = value;
  b[2 * (which) + 1] = value
}

/* The unlock of a page: one swap. */
inline finish(which, value) {
  atomic { frame = (which); version = BUMPED; claimed = false; content = value; frozen[0] = false; frozen[1] = false }
}

inline give_back(which) {
  unused[which] = true
}

active [READERS] proctype Reader() {
  byte f, v, x, y, was;
  bool same;
  atomic {
    f = frame; v = version; was = content;
    if
#ifdef READ_CLAIMED
    :: frame == EMPTY -> goto done
#else
    :: frame == EMPTY || claimed -> goto done
#endif
    :: else
    fi
  }
#ifdef EARLY_SECOND
  same = (frame == f && version == v && !claimed);
#endif
  x = b[2 * f];
  y = b[2 * f + 1];
  atomic {
#ifndef EARLY_SECOND
#ifdef NO_SECOND
    same = true;
#else
#ifdef BY_FRAME
    same = (frame == f);
#else
#ifdef READ_CLAIMED
    same = (frame == f && version == v);
#else
    same = (frame == f && version == v && !claimed);
#endif
#endif
#endif
#endif
    if
    :: same -> assert(x == y); assert(x == was)
    :: else
    fi
  }
done: skip
}

/* A holder of a reference that was taken by the slot: a snapshot. */
active [HOLDERS] proctype Holder() {
  byte f, x;
  atomic {
    if
    :: frame != EMPTY && !frozen[frame] -> f = frame; held[f]++
    :: else -> goto done
    fi
  }
  x = b[2 * f];
  assert(b[2 * f + 1] == x);
  assert(b[2 * f] == x);
  held[f]--;
done: skip
}

active [CHANGERS] proctype Changer() {
  byte f, g, next;
  bool alone;
  do
  :: atomic { changes < CHANGES -> changes++; next = changes + 1 }
    if
    :: atomic { frame != EMPTY && !claimed -> f = frame
#ifndef LATE_CLAIM
       ; claimed = true
#endif
       }
#ifdef LATE_CLAIM
       /* Without the writer's fence the first of its bytes may be seen before its page lock. */
       if
       :: b[2 * f] = next
       :: true
       fi;
       claimed = true;
#endif
       if
#ifdef NOT_FROZEN
       :: alone = true
#else
       :: atomic { held[f] == 0 -> frozen[f] = true; alone = true }
#endif
       :: alone = false
       fi;
       if
       :: alone ->
          if
          :: write(f, next); finish(f, next)           /* written in place */
          :: finish(EMPTY, 0); give_back(f)                /* reclaimed */
          :: atomic { unused[1 - f] -> unused[1 - f] = false }                    /* migrated */
             b[2 * (1 - f)] = b[2 * f]; b[2 * (1 - f) + 1] = b[2 * f + 1];
             finish(1 - f, content); give_back(f)
          :: else -> finish(f, content)
          fi
       :: else ->
          if
          :: atomic { claimed = false }                                           /* busy: the page is unlocked unchanged */
          :: atomic { unused[1 - f] -> unused[1 - f] = false }                    /* a copy in its place */
             write(1 - f, next);
             finish(1 - f, next);
             if
             :: atomic { held[f] == 0 -> give_back(f) }
             :: true                                                               /* a holder keeps it forever */
             fi
          fi
       fi
    :: atomic { frame == EMPTY && !claimed && (unused[0] || unused[1]) ->         /* a miss */
         if
         :: unused[0] -> g = 0
         :: unused[1] -> g = 1
         fi;
         unused[g] = false; frame = g; claimed = true; frozen[g] = true }
       write(g, next); finish(g, next)
    :: else
    fi
  :: else -> break
  od
}

/* A user of another file. */
active [OTHER] proctype Other() {
  byte g;
  byte n;
  do
  :: n < 2 ->
    n++;
    if
    :: atomic { unused[0] -> unused[0] = false; g = 0 } write(g, OTHERS); give_back(g)
    :: atomic { unused[1] -> unused[1] = false; g = 1 } write(g, OTHERS); give_back(g)
    :: else
    fi
  :: else -> break
  od
}

init {
  unused[1] = true
}
