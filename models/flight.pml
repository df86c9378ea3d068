/* A request that waiters share (folio-cache/src/rt/flight.rs), in every interleaving.
 *
 * One future, driven by whichever waiter is polled. Each waiter is a task: it polls, then sleeps
 * until its waker is called. Some are dropped at any moment, and some keep the request for ever
 * without polling it. A driver is a task of a spawner, which may be dropped as well. A detached
 * waiter stands for no caller, and an invalidation cancels what only detached waiters want. The
 * store answers or fails at any moment, and wakes the request some times before that.
 *
 * What must hold:
 * - no waiter that polls is left asleep: every process ends, or SPIN finds an invalid end state
 * - a waiter that stays until the end sees the result, and never a cancelled request
 * - no two threads poll the future at once, and none after it was dropped
 * - once all waiters are gone the future is dropped, and no result is kept
 *
 * Locks are instants, and memory is sequentially consistent: the two fences of `drive` are given.
 *
 * Switches (-DNAME=value): STAYERS, LEAVERS, DETACHED waiters; DRIVERS; INVALIDATES; WAKES before
 * the answer; DRIVEN: the waiters that stay leave the polls to the driver
 * Broken on purpose (each must be refuted): ONE_WOKEN MISSED_IGNORED DRIVER_SILENT LAST_STAYS
 * UNLOCKED_EARLY RESULT_KEPT JOINS_CANCELLED MARK_LATE
 */
#ifndef STAYERS
#define STAYERS 1
#endif
#ifndef LEAVERS
#define LEAVERS 1
#endif
#ifndef DETACHED
#define DETACHED 0
#endif
#ifndef DRIVERS
#define DRIVERS 0
#endif
#ifndef WAKES
#define WAKES 1
#endif

#define TASKS (STAYERS + LEAVERS + DETACHED + DRIVERS)
#define ALL ((1 << TASKS) - 1)

#define RUNNING 0
#define CANCELLED 1
#define DONE 2

/* The state under the lock of the listeners. */
byte phase;
byte wakers;          /* a bit for each place that has one */
byte waiters = 1;     /* the first one begins the request */
byte detached;
byte drivers = DRIVERS;

byte due;             /* a bit for each task that was woken since its last poll */

bool locked;          /* the future's lock */
bool future = 1;
bool missed;
bool result;

/* The store. */
bool ready;
bool wanted;          /* it has the waker of the last poll */

/* Takes the wakers. The caller calls them later. */
#ifdef ONE_WOKEN
#define TAKE(mine) mine = wakers & (0 - wakers); wakers = 0
#else
#define TAKE(mine) mine = wakers; wakers = 0
#endif

inline wake_all(mine) {
  atomic { TAKE(mine) };
  atomic { due = due | mine; mine = 0 }
}

/* One poll of the future, with its lock, or its drop. Unlocks. */
inline poll_locked(mine, over) {
  atomic { over = (phase != RUNNING); assert(locked) };
  if
  :: over -> atomic { future = 0; locked = 0 }
  :: !over && !future -> locked = 0
  :: else ->
    assert(future);
#ifdef UNLOCKED_EARLY
    locked = 0;
#endif
    /* The future registers its waker, then looks for the answer. */
    wanted = 1;
    if
    :: atomic { ready -> assert(future); future = 0; locked = 0 };
      result = 1;
      atomic { over = (phase == RUNNING);
        if :: over -> phase = DONE :: else fi;
        TAKE(mine)
      };
#ifndef RESULT_KEPT
      if :: !over -> result = 0 :: else fi;
#endif
      atomic { due = due | mine; mine = 0 }
    :: !ready -> locked = 0
    fi
  fi
}

inline drive(mine, over, got) {
  do
  :: atomic { got = !locked; if :: got -> locked = 1 :: else fi };
    if
    :: got ->
      missed = 0;
      poll_locked(mine, over);
      atomic { got = missed; missed = 0 };
#ifdef MISSED_IGNORED
      got = 0;
#endif
      if
      :: !got -> break
      :: got && phase == RUNNING -> wake_all(mine); break
      :: else
      fi
    :: else ->
#ifndef MARK_LATE
      missed = 1;
#endif
      if
      :: locked ->
#ifdef MARK_LATE
        missed = 1;
#endif
        break
      :: !locked -> skip
      fi
    fi
  od;
  got = 0; over = 0
}

/* A waiter goes. The last one cancels. */
inline leave(me, is_detached, mine, more, over, got) {
  atomic {
    wakers = wakers & ~(1 << me);
    waiters--;
    detached = detached - is_detached;
    got = (waiters == 0 && phase == RUNNING);
    over = (waiters == 0 && phase == DONE);
#ifdef LAST_STAYS
    got = 0;
#endif
    if :: got -> phase = CANCELLED; TAKE(mine) :: else fi
  };
  if
  :: got -> drive(more, over, got)
  :: over -> result = 0; over = 0
  :: else
  fi;
  atomic { due = due | mine; mine = 0 }
}

/* Registers the waker, and polls unless the driver does. */
inline poll(me, mine, over, got, is_driven) {
  due = due & ~(1 << me);
  atomic {
    over = (phase != RUNNING);
    if :: !over -> wakers = wakers | (1 << me) :: else fi
  };
  if
  :: !over && is_driven && drivers > 0 -> skip
  :: !over && is_driven && drivers == 0 ->
    atomic { if :: phase == RUNNING -> wakers = wakers | (1 << me) :: else fi };
    drive(mine, over, got)
  :: !over && !is_driven -> drive(mine, over, got)
  :: else
  fi;
  over = 0
}

/* Joins the request, unless it is over without a waiter. */
inline join(joined) {
  atomic {
#ifdef JOINS_CANCELLED
    joined = 1;
#else
    joined = (waiters > 0 && phase != CANCELLED);
#endif
    if :: joined -> waiters++ :: else fi
  }
}

proctype stayer(byte me; bool first) {
  byte mine, more; bool over, got, joined = first, is_driven;
#ifdef DRIVEN
  is_driven = 1;
#endif
  if :: !first -> join(joined) :: else fi;
  do
  :: !joined -> break
  :: else ->
    poll(me, mine, over, got, is_driven);
    if
    :: phase != RUNNING ->
      assert(phase == DONE && result);
      leave(me, 0, mine, more, over, got);
      break
    :: else ->
      /* Asleep. */
      due & (1 << me)
    fi
  od
}

proctype leaver(byte me) {
  byte mine, more; bool over, got, joined;
  join(joined);
  do
  :: !joined -> break
  :: joined -> leave(me, 0, mine, more, over, got); break
  :: joined ->
    poll(me, mine, over, got, 0);
    if
    :: phase != RUNNING -> leave(me, 0, mine, more, over, got); break
    :: due & (1 << me)
    :: leave(me, 0, mine, more, over, got); break
    :: phase == RUNNING -> break /* It keeps the request, and never polls it again. */
    fi
  od
}

/* A task of the spawner for a request that no caller waits for. */
proctype background(byte me) {
  byte mine, more; bool over, got, joined;
  atomic {
    joined = (waiters > 0 && phase != CANCELLED);
    if :: joined -> waiters++; detached++ :: else fi
  };
  do
  :: !joined -> break
  :: joined -> leave(me, 1, mine, more, over, got); break /* The executor is dropped. */
  :: joined ->
    poll(me, mine, over, got, 0);
    if
    :: phase != RUNNING -> leave(me, 1, mine, more, over, got); break
    :: due & (1 << me)
    fi
  od
}

proctype driver(byte me) {
  byte mine, more; bool over, got;
  do
  :: poll(me, mine, over, got, 0);
    if
    :: phase != RUNNING -> break
    :: due & (1 << me)
    :: break
    fi
  :: break
  od;
  atomic {
    wakers = wakers & ~(1 << me);
    drivers--;
#ifndef DRIVER_SILENT
    if :: drivers == 0 -> TAKE(mine) :: else fi
#endif
  };
  atomic { due = due | mine; mine = 0 }
}

proctype store() {
  byte mine, wakes = WAKES; bool got;
  do
  :: wakes > 0 ->
    atomic { got = wanted; wanted = 0; wakes-- };
    if :: got -> wake_all(mine) :: else fi
  :: wakes == 0 -> break
  od;
  atomic { ready = 1; got = wanted; wanted = 0 };
  if :: got -> wake_all(mine) :: else fi
}

/* Another version of the object: what no caller waits for is cancelled. */
proctype invalidation() {
  byte mine, more; bool over, got, cancels;
  atomic {
    cancels = (phase == RUNNING && waiters == detached);
    if :: cancels -> phase = CANCELLED; TAKE(mine) :: else fi
  };
  if :: cancels -> drive(more, over, got) :: else fi;
  atomic { due = due | mine; mine = 0 }
}

init {
  byte n;
  atomic {
#if STAYERS > 0
    run stayer(0, 1);
    n = 1;
    do :: n < STAYERS -> run stayer(n, 0); n++ :: else -> break od;
#else
    /* The first waiter is a task of the spawner, or one that leaves: it has joined. */
    n = 0;
    waiters = 1;
#endif
    do :: n < STAYERS + LEAVERS -> run leaver(n); n++ :: else -> break od;
    do :: n < STAYERS + LEAVERS + DETACHED -> run background(n); n++ :: else -> break od;
    do :: n < TASKS -> run driver(n); n++ :: else -> break od;
    run store();
#ifdef INVALIDATES
    run invalidation();
#endif
#if STAYERS == 0
    /* Its creator goes at any moment. */
    run creator();
#endif
  }
  timeout;
  assert(waiters > 0 || (!future && !result && phase != RUNNING))
}

/* Begins the request, and is dropped without a poll. */
proctype creator() {
  byte mine, more; bool over, got;
  atomic {
    waiters--;
    got = (waiters == 0 && phase == RUNNING);
    over = (waiters == 0 && phase == DONE);
#ifdef LAST_STAYS
    got = 0;
#endif
    if :: got -> phase = CANCELLED; TAKE(mine) :: else fi
  };
  if
  :: got -> drive(more, over, got)
  :: over -> result = 0
  :: else
  fi;
  atomic { due = due | mine; mine = 0 }
}
