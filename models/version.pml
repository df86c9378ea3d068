/* The version of an object of a distant store, and the reads of it: the operations of folio-cache on both (a gather of two
 * pages, a request, an invalidation, a revalidation, a request for the length), in every interleaving.
 *
 * The store has one version after the other, which are numbered. The cache knows one or none, and counts in `seq` the
 * steps of each change of it. A request is answered with the version that the store has at some moment after it was made,
 * and arrives later. Readers join a request that is in the table.
 *
 * - all pages that a read returns are of one version
 * - it is no older than what the store had when an invalidation or a revalidation began that ended before the read began
 * - a read of an object that never changes begins anew at most once, however often the object is invalidated
 * - no process waits for ever: SPIN finds an invalid end state otherwise
 *
 * Memory is sequentially consistent: a reader loads `seq` by Acquire after the page that it found, and all else is under
 * locks.
 *
 * Switches (-DNAME=value): CHANGES of the object; FLIGHTS: requests in all; READERS, INVALIDATIONS, REVALIDATIONS,
 * LENGTHS: that many processes
 * Broken on purpose (each must be refuted): TWO_STEPS MIXED STALE_KEPT ORDER_UNKNOWN OLD_JOINED LATE_LENGTH ANSWERS_LOST
 */
#ifndef CHANGES
#define CHANGES 1
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef INVALIDATIONS
#define INVALIDATIONS 0
#endif
#ifndef REVALIDATIONS
#define REVALIDATIONS 0
#endif
#ifndef LENGTHS
#define LENGTHS 0
#endif

/* All requests that are made: a read that would need one more is given up. */
#ifndef FLIGHTS
#define FLIGHTS 4
#endif
#define MOST_RESTARTS 2

byte store = 1;          /* the version that the store has */
byte floor = 0;          /* no later read may return an older one */

byte seq = 0;
byte known = 0;          /* 0: none */
byte page[2];            /* the version of a cached page; 0: missing */
byte table[2];           /* the request of a page; 0: none */
bool locked;             /* the lock of the version */

byte flights = 0;
byte asked_in[FLIGHTS + 1];
bool versioned[FLIGHTS + 1];
byte answer[FLIGHTS + 1];
bool done[FLIGHTS + 1];

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

inline no_later_read_is_older(v) {
  if :: v > floor -> floor = v :: else fi
}

/* Under the lock. */
inline replace(v) {
  seq++;
  known = 0;
  atomic { table[0] = 0; table[1] = 0 }
  page[0] = 0;
  page[1] = 0;
#ifndef TWO_STEPS
  seq++;
#endif
  known = v;
  seq++
}

/* Under the lock. */
inline agree(v) {
  if
  :: known == v
  :: known == 0 -> known = v
  :: known != 0 && known != v -> replace(v)
  fi
}

proctype flight(byte id; byte p) {
  bool is_fresh;
  answer[id] = store;
  atomic {
    !locked -> locked = true;
    is_fresh = seq == asked_in[id];
#ifdef STALE_KEPT
    is_fresh = true;
#endif
#ifndef ORDER_UNKNOWN
    if
    :: !versioned[id] && known != 0 && known != answer[id] -> is_fresh = false
    :: else
    fi
#endif
  }
  if
  :: is_fresh ->
     agree(answer[id]);
     if :: page[p] == 0 -> page[p] = answer[id] :: else fi
  :: else
  fi;
  atomic {
    locked = false;
    if :: table[p] == id -> table[p] = 0 :: else fi;
    done[id] = true
  }
}

/* The comparison of the version with that of the cached pages. */
#define LATER 0
#define DUE 1
#define DONE 2

/* What a check of what was found in the cache says. */
#define SAME 0
#define CHANGED 1
#define AGAIN 2
#define FORGOTTEN 3

/* Two loads: of the version, which takes a lock, and of `seq`. */
inline check_cached() {
  if :: check == DUE -> k = known :: else fi;
  atomic {
    if
    :: seq != epoch -> says = AGAIN
    :: else ->
       if
       :: check != DUE -> says = SAME
       :: check == DUE && k == 0 -> says = FORGOTTEN
       :: check == DUE && k != 0 && told && version != 0 && version != k -> says = CHANGED
       :: else -> version = k; check = DONE; says = SAME
       fi
    fi;
    k = 0
  }
}

inline hand_out() {
  told = true;
  if
  :: p == 0 -> first = v
  :: else -> assert(first == v)
  fi;
  assert(v >= from);
  p++;
  v = 0;
  id = 0
}

proctype reader() {
  byte from, epoch, version, check, p, v, k, says, id, restarts, first;
  bool told;
  from = floor;
begin:
  atomic {
    version = 0; told = false; p = 0; first = 0; v = 0; id = 0;
    if :: restarts > 0 -> check = DUE :: else -> check = LATER fi;
    epoch = seq
  }
look:
  atomic {
    if
    :: p == 2 -> goto end
    :: p < 2 && seq == epoch -> goto find
    :: else
    fi
  }
  atomic { !locked -> epoch = seq }
  atomic {
    if :: check == DONE -> check = DUE :: else fi;
    if :: told && version == 0 -> goto anew :: else fi
  }
find:
  atomic {
    v = page[p];
    if
    :: v != 0 -> goto found
    :: v == 0 && (check != LATER || !told) -> if :: check == LATER -> check = DUE :: else fi; goto ask
    :: else -> check = DUE
    fi
  }
found:
  check_cached();
  atomic {
    if
    :: says == CHANGED -> says = 0; goto anew
    :: says == AGAIN -> says = 0; goto look
    :: says == FORGOTTEN -> says = 0
    :: says == SAME && v != 0 -> hand_out(); goto look
    :: says == SAME && v == 0 -> goto ask
    fi
  }
  atomic { !locked -> goto look }
ask:
  atomic {
    id = table[p];
    if
    :: id == 0 && flights < FLIGHTS ->
       flights++;
       id = flights;
       table[p] = id;
       asked_in[id] = seq;
       versioned[id] = known != 0;
       run flight(id, p)
    :: id == 0 && flights == FLIGHTS -> goto given_up
    :: else
    fi
  }
  atomic {
    done[id];
#ifdef ANSWERS_LOST
    if :: seq != epoch -> goto anew :: else fi;
#endif
    v = answer[id];
#ifndef MIXED
    if :: told && version != 0 && version != v -> goto anew :: else fi;
#endif
    if :: version != v && check == DONE -> check = DUE :: else fi;
    version = v;
    hand_out();
    goto look
  }
anew:
  atomic {
    restarts++;
    assert(store > 1 || restarts <= 1);
    if
    :: restarts <= MOST_RESTARTS -> goto begin
    :: else
    fi
  }
given_up:
end:
  skip
}

proctype changes() {
  byte n = 0;
  do
  :: n < CHANGES -> store++; n++
  :: else -> break
  od
}

proctype invalidation() {
  byte then;
  then = store;
  lock();
  replace(0);
  atomic { unlock(); no_later_read_is_older(then) }
}

proctype revalidation() {
  byte then, in, answered;
  atomic { then = store; in = seq }
  answered = store;
  lock();
  if
  :: seq == in -> agree(answered)
  :: seq != in && known != 0 && known != answered -> replace(0)
  :: else
  fi;
  atomic {
#ifndef OLD_JOINED
    if :: table[0] != 0 && !versioned[table[0]] -> table[0] = 0 :: else fi;
    if :: table[1] != 0 && !versioned[table[1]] -> table[1] = 0 :: else fi;
#endif
    unlock();
    no_later_read_is_older(then)
  }
}

proctype length() {
  byte in, answered;
  in = seq;
  answered = store;
  lock();
#ifdef LATE_LENGTH
  agree(answered);
#else
  if :: seq == in && known == 0 -> known = answered :: else fi;
#endif
  assert(known == 0 || known >= floor);
  unlock()
}

init {
  byte n = 0;
  atomic {
    do
    :: n < READERS -> run reader(); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < INVALIDATIONS -> run invalidation(); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < REVALIDATIONS -> run revalidation(); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < LENGTHS -> run length(); n++
    :: else -> break
    od;
    run changes()
  }
}
