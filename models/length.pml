/* A page, and the length of its file: the operations of folio-cache on both (read, fill, truncate, resize, write), in
 * every interleaving and with every older value that a load may return.
 *
 * A file of at most two bytes, in one page, always in the same frame. One process changes the length, as all changers
 * hold one lock: it truncates, appends zeroes or bytes, writes back, and notices that another program appended to the
 * backing. Fillers miss the page, reclaim it, overwrite a byte of it. A reader that begins at any moment must get what
 * the file held, with that length, at a moment since then.
 *
 * Memory is C11's without load buffering. A location is a list of messages, each with what its writer knew (a view). A
 * load returns any message that is not older than the process knows. Acquire adds the message's view, Release attaches
 * the process's own. A SeqCst fence does both with a view that all of them share. The backing is asked by system calls,
 * which hand on no view. A reader writes nothing, so it may choose its messages after all others have ended, from all
 * that existed.
 *
 * A reader with a reference has the bytes of the slot message that it chose: frame.pml shows why. slot.pml has what else
 * an optimistic read must notice.
 *
 * Switches (-DNAME=value): CHANGES of the length; FILLERS, and FILLS of each; WRITES: fillers overwrite as well
 * Broken on purpose (each must be refuted): LENGTH_FIRST NO_CUTS COUNT_ALONE CUT_LATE GROWN_EARLY BACKED_EARLY
 * RELAXED_LENGTH NO_FILL_FENCE NO_CUT_FENCE NO_WRITE_FENCE DIRTY_STAYS
 */
#ifndef CHANGES
#define CHANGES 3
#endif
#ifndef FILLERS
#define FILLERS 1
#endif
#ifndef FILLS
#define FILLS 2
#endif

/* Locations: the slot, the length, the number of truncations, the known length of the backing, and the two bytes. */
#define S 0
#define L 1
#define C 2
#define B 3
#define X 4
#define Y 5
#define LOCS 6
#define MOST 18

#define READER (1 + FILLERS)
#define CHANGER 0

#define VAL(l, i) val[(l) * MOST + (i)]
#define VIEW(l, i, k) view[((l) * MOST + (i)) * LOCS + (k)]
#define KNOWN(p, k) known[(p) * LOCS + (k)]
#define LAST(l) VAL(l, top[l])

/* The value of a slot. */
#define HELD 1
#define CLAIMED 2
#define NEXT 4

byte val[LOCS * MOST];
byte view[LOCS * MOST * LOCS];
byte top[LOCS];
byte known[(2 + FILLERS) * LOCS];
byte fenced[LOCS];
hidden byte k;

bool dirty;            /* of the page in the slot, under its page lock */
byte has;              /* the backing: its length and its bytes */
byte bx;
byte by;

/* The successive states of the file, length and bytes; and which of them each length made. */
byte flen[MOST];
byte fx[MOST];
byte fy[MOST];
byte now;
byte changed[MOST];
byte sx[MOST];         /* the meaning of a slot's message */
byte sy[MOST];
bool ready;
bool began;           /* the reader, and the state of the file then */
byte from;
byte ended;
byte fresh = 1;

inline see(p, l, i) {
  k = 0;
  do
  :: k < LOCS -> if :: VIEW(l, i, k) > KNOWN(p, k) -> KNOWN(p, k) = VIEW(l, i, k) :: else fi; k++
  :: else -> break
  od;
  k = 0
}

/* A Release store. */
inline put(p, l, x) {
  /* The value may depend on the last one. */
  assert(top[l] + 1 < MOST);
  VAL(l, top[l] + 1) = x;
  top[l]++;
  KNOWN(p, l) = top[l];
  k = 0;
  do
  :: k < LOCS -> VIEW(l, top[l], k) = KNOWN(p, k); k++
  :: else -> break
  od;
  k = 0
}

/* A store that publishes nothing. */
inline put_relaxed(p, l, x) {
  /* The value may depend on the last one. */
  assert(top[l] + 1 < MOST);
  VAL(l, top[l] + 1) = x;
  top[l]++;
  KNOWN(p, l) = top[l];
  VIEW(l, top[l], l) = top[l]
}

/* An Acquire read-modify-write: it hands on what its predecessor published. */
inline swap_acquire(p, l, x) {
  see(p, l, top[l]);
  put_relaxed(p, l, x);
  k = 0;
  do
  :: k < LOCS -> if :: k != l -> VIEW(l, top[l], k) = VIEW(l, top[l] - 1, k) :: else fi; k++
  :: else -> break
  od;
  k = 0
}

inline fence_seq_cst(p) {
  d_step {
    k = 0;
    do
    :: k < LOCS ->
       if
       :: fenced[k] > KNOWN(p, k) -> KNOWN(p, k) = fenced[k]
       :: else -> fenced[k] = KNOWN(p, k)
       fi;
       k++
    :: else -> break
    od;
    k = 0
  }
}

/* Chooses any message that may be loaded: its index in i. */
inline choose(p, l) {
  i = KNOWN(p, l);
  do
  :: i < top[l] -> i++
  :: break
  od
}

/* The unlock of a page that changed: an AcqRel swap. */
inline finish_in(p, held) {
  see(p, S, top[S]);
  put(p, S, (LAST(S) & ~3) + NEXT + held);
  sx[top[S]] = LAST(X);
  sy[top[S]] = LAST(Y)
}

inline finish(p, held) {
  d_step { finish_in(p, held) }
}

inline finish_untouched(p) {
  d_step {
    see(p, S, top[S]);
    put(p, S, LAST(S) & ~CLAIMED);
    sx[top[S]] = LAST(X);
    sy[top[S]] = LAST(Y)
  }
}

inline claim(p) {
  swap_acquire(p, S, LAST(S) | CLAIMED);
  sx[top[S]] = LAST(X);
  sy[top[S]] = LAST(Y)
}

inline happened(length, x, y) {
  assert(now + 1 < MOST);
  flen[now + 1] = length; fx[now + 1] = x; fy[now + 1] = y;
  now++
}

inline set_length(n) {
#ifdef RELAXED_LENGTH
  put_relaxed(CHANGER, L, n);
#else
  put(CHANGER, L, n);
#endif
  changed[top[L]] = now
}

/* The visit of a page by a truncate or an extension. It may miss a lock that it does not know: the slot is then empty. */
#define CLEAN 0
#define ALL 1
#define REST 2
inline visit(what) {
  stays = false;
  do
  :: atomic {
       (LAST(S) & HELD) == 0 || KNOWN(CHANGER, S) < top[S] ->
       choose(CHANGER, S);
       if
       :: (VAL(S, i) & HELD) == 0 -> see(CHANGER, S, i); i = 0; break
       :: else -> i = 0
       fi
     }
  :: atomic { (LAST(S) & (HELD | CLAIMED)) == HELD -> claim(CHANGER) }
     if
     :: what == CLEAN && dirty -> stays = true; finish_untouched(CHANGER)
     :: what == REST && dirty ->
        d_step { put(CHANGER, Y, 0) }
        finish(CHANGER, HELD)
     :: else ->
        dirty = false;
        finish(CHANGER, 0)
     fi;
     break
  od;
  skip
}

/* A write to a locked page: to its first byte, its last, or both of a new one (try_write). It counts from its end. If
 * the file was truncated since the length that it saw, it came before that, for a reader that began before. */
inline overwrite(new) {
  if
  :: !new -> ends = 1
  :: ends = 2
  fi;
#ifndef NO_WRITE_FENCE
  fence_seq_cst(_pid);
#endif
  atomic { choose(_pid, L); see(_pid, L, i); length = VAL(L, i); looked = changed[i]; i = 0 }
  if
  :: ends <= length ->
     d_step {
       fresh++;
       mine = fresh;
       if :: new || ends == 1 -> put(_pid, X, mine) :: else fi;
       if :: ends == 2 -> put(_pid, Y, mine) :: else fi;
       dirty = true
     }
     d_step {
       finish_in(_pid, HELD);
       i = changed[top[L]];
       if
       :: i > looked && flen[i] < flen[i - 1] && (!began || from < i) ->
          x = (new || ends == 1 -> mine : fx[i - 1]);
          y = (ends == 2 -> mine : fy[i - 1]);
          got = fx[now];
          backed = fy[now];
          happened(flen[i - 1], x, y);
       :: else ->
          got = fx[now];
          backed = fy[now]
       fi;
       x = (LAST(L) > 0 && (new || ends == 1) -> mine : got);
       y = (LAST(L) > 1 && ends == 2 -> mine : backed);
       happened(LAST(L), x, y);
       i = 0; got = 0; backed = 0
     }
  :: ends > length && new -> finish(_pid, 0)
  :: ends > length && !new -> finish_untouched(_pid)
  fi;
  d_step { length = 0; ends = 0; x = 0; y = 0; looked = 0; mine = 0 }
}

active proctype Changer() {
  byte n, i, version, wx, wy, ends, mine;
  bool stays;
  d_step {
    /* The file has two bytes, 1 and 1; nothing is cached. */
    LAST(L) = 2; LAST(B) = 2;
    has = 2; bx = 1; by = 1;
    flen[0] = 2; fx[0] = 1; fy[0] = 1
  }
  ready = true;
  do
  :: n < CHANGES ->
     n++;
     if
     /* resize, shorter */
     :: LAST(L) > 0 && has <= LAST(L) ->
        if
        :: LAST(L) == 2 -> ends = 1
        :: ends = 0
        fi;
        d_step {
          has = (ends < has -> ends : has);
          by = 0;
          if :: ends == 0 -> bx = 0 :: else fi
        }
#ifdef BACKED_EARLY
        d_step { put(CHANGER, B, ends) }
#endif
#ifdef CUT_LATE
        fence_seq_cst(CHANGER);
        if :: ends == 1 -> visit(REST) :: else -> visit(ALL) fi;
#endif
        d_step {
          wx = (ends == 0 -> 0 : fx[now]);
          happened(ends, wx, 0);
          set_length(ends);
          wx = 0
        }
        d_step { put(CHANGER, C, LAST(C) + 1) }
#ifndef BACKED_EARLY
        d_step { put(CHANGER, B, ends) }
#endif
#ifndef CUT_LATE
#ifndef NO_CUT_FENCE
        fence_seq_cst(CHANGER);
#endif
        if :: ends == 1 -> visit(REST) :: else -> visit(ALL) fi;
#endif
     /* resize, longer */
     :: LAST(L) < 2 && has <= LAST(L) ->
        d_step { has = 2 }
        d_step {
          happened(2, fx[now], 0);
          set_length(2)
        }
        d_step { put(CHANGER, B, 2) }
     /* An append to a page that is there, or to a new one. */
     :: atomic { LAST(L) == 1 && has <= 1 && (LAST(S) & (HELD | CLAIMED)) == HELD -> claim(CHANGER) }
        d_step { fresh++; mine = fresh; put(CHANGER, Y, mine); dirty = true }
        finish(CHANGER, HELD);
        d_step { happened(2, fx[now], mine); set_length(2); mine = 0 }
     :: atomic { LAST(L) == 0 && has == 0 && (LAST(S) & (HELD | CLAIMED)) == 0 ->
          see(CHANGER, S, top[S]);
          put(CHANGER, S, LAST(S) | HELD | CLAIMED) }
        d_step { fresh++; mine = fresh; put(CHANGER, X, mine); put(CHANGER, Y, mine); dirty = true }
        finish(CHANGER, HELD);
        d_step { happened(2, mine, mine); set_length(2); mine = 0 }
     /* Writeback: pinned, written, clean if it is still the same. */
     :: atomic { LAST(L) > 0 && dirty && (LAST(S) & (HELD | CLAIMED)) == HELD ->
          see(CHANGER, S, top[S]);
          version = LAST(S); wx = LAST(X); wy = LAST(Y) }
        d_step {
          bx = wx;
          if :: LAST(L) == 2 -> by = wy :: else fi;
          has = (LAST(L) > has -> LAST(L) : has)
        }
        if
        :: LAST(B) < LAST(L) -> d_step { swap_acquire(CHANGER, B, LAST(L)) }
        :: else
        fi;
        atomic { (LAST(S) & CLAIMED) == 0 ->
          if
          :: LAST(S) == version -> claim(CHANGER); dirty = false; finish_untouched(CHANGER)
          :: else
          fi;
          version = 0; wx = 0; wy = 0 }
     /* Another program appended to the backing. */
     :: LAST(L) == 1 && has == 1 -> d_step { fresh++; has = 2; by = fresh }
     /* ... and the cache asks for its length. */
     :: LAST(L) == 1 && has == 2 && !dirty ->
#ifdef GROWN_EARLY
        d_step { happened(2, fx[now], by); set_length(2) }
#endif
#ifndef NO_CUT_FENCE
        fence_seq_cst(CHANGER);
#endif
        visit(CLEAN);
#ifndef GROWN_EARLY
        if
#ifndef DIRTY_STAYS
        :: stays
        :: !stays
#else
        :: true
#endif
           -> d_step { happened(2, fx[now], by); set_length(2); put(CHANGER, B, 2) }
        fi
#endif
     :: else
     fi
  :: else -> break
  od;
  ended++
}

active [FILLERS] proctype Filler() {
  byte n, i, length, backed, got, ends, x, y, looked, mine;
  ready;
  do
  :: n < FILLS ->
     n++;
     if
     /* A miss. */
     :: atomic { (LAST(S) & (HELD | CLAIMED)) == 0 ->
          see(_pid, S, top[S]);
          put(_pid, S, LAST(S) | HELD | CLAIMED) }
#ifndef NO_FILL_FENCE
        fence_seq_cst(_pid);
#endif
        d_step {
          got = has;
          /* Past its end the bytes of the backing are zeroes here as well. */
          put(_pid, X, bx);
          put(_pid, Y, by)
        }
        atomic { choose(_pid, L); see(_pid, L, i); length = VAL(L, i); i = 0 }
        atomic { choose(_pid, B); see(_pid, B, i); backed = VAL(B, i); i = 0 }
        if
        :: length == 0 || got < (length < backed -> length : backed) -> finish(_pid, 0)
        :: else -> finish(_pid, HELD)
        fi;
        d_step { length = 0; backed = 0; got = 0 }
     /* Reclaim. */
     :: atomic { (LAST(S) & (HELD | CLAIMED)) == HELD -> claim(_pid) }
        if
        :: dirty -> finish_untouched(_pid)
        :: else -> finish(_pid, 0)
        fi
#ifdef WRITES
     /* Another byte over the first or the second. */
     :: atomic { (LAST(S) & (HELD | CLAIMED)) == HELD -> claim(_pid) }
        overwrite(false)
     /* Over both, as a new page. */
     :: atomic { (LAST(S) & (HELD | CLAIMED)) == 0 ->
          see(_pid, S, top[S]);
          put(_pid, S, LAST(S) | HELD | CLAIMED) }
        overwrite(true)
#endif
     fi
  :: else -> break
  od;
  ended++
}

active proctype Reader() {
  byte i, before, cuts, length, ends, x, y, from_x;
  bool found, found_x, found_y;
  /* It begins now, and knows everything before. */
  atomic {
    ready ->
    began = true;
    from = now;
    do
    :: i < LOCS -> KNOWN(READER, i) = top[i]; i++
    :: else -> break
    od;
    i = 0
  }
  atomic {
    ended == 1 + FILLERS;
    if
    /* An optimistic read. */
    :: if
       :: ends = 1
       :: ends = 2
       fi;
#ifdef LENGTH_FIRST
       choose(READER, L); see(READER, L, i); length = VAL(L, i);
#endif
       choose(READER, S); see(READER, S, i); before = VAL(S, i);
#ifndef LENGTH_FIRST
       choose(READER, L); see(READER, L, i); length = VAL(L, i);
#endif
       if
       :: (before & (HELD | CLAIMED)) != HELD || ends > length -> goto done
       :: else
       fi;
       choose(READER, X); x = VAL(X, i); from_x = i;
       choose(READER, Y); y = VAL(Y, i);
       /* The fence after the copy, then the second load. */
       see(READER, X, from_x); from_x = 0;
       see(READER, Y, i);
       choose(READER, S);
       if
       :: VAL(S, i) != before -> goto done
       :: else
       fi
    /* With a reference: find_with_end. */
    :: choose(READER, C); see(READER, C, i); cuts = i;
       choose(READER, L); see(READER, L, i); ends = VAL(L, i);
       choose(READER, S); see(READER, S, i);
       if
       :: ends == 0 || (VAL(S, i) & (HELD | CLAIMED)) != HELD -> goto done
       :: else
       fi;
       x = sx[i]; y = sy[i];
#ifndef COUNT_ALONE
       choose(READER, L); see(READER, L, i);
       if
       :: VAL(L, i) < ends -> goto done
       :: else
       fi;
#endif
#ifndef NO_CUTS
       choose(READER, C);
       if
       :: i != cuts -> goto done
       :: else
       fi
#endif
    fi;
    i = from;
    do
    :: i <= now ->
       if
       :: flen[i] >= ends && fx[i] == x && (ends == 1 || fy[i] == y) -> found = true
       :: else
       fi;
#ifdef WRITES
       /* Nothing orders a write to the first byte and an extension of the file: each byte is checked alone. */
       if :: flen[i] > 0 && fx[i] == x -> found_x = true :: else fi;
       if :: flen[i] == 2 && fy[i] == y -> found_y = true :: else fi;
#endif
       i++
    :: else -> break
    od;
    assert(found || found_x && (ends == 1 || found_y))
  }
done: skip
}
