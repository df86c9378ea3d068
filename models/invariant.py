"""The word's invariant, for any number of threads and lifetimes, by z3.

A counter abstraction: instead of threads, the number of threads at each place.

  w   the count field (stale increments, while frozen)     h   references that are held by any thread
  p   puts between their two steps
  u   refused try_gets that have not yet compared the stale increments with the limit
  g   gets and puts that owe the pin of a saturated count, if it is still saturated
  r   try_gets that were refused because they would saturate, and owe the pin
  s   counts without a holder: the increments of those try_gets
  o   exclusive handles of the frame; a tail and an offline frame are in the hands of the allocator
  ph  LIVE, OWNED (frozen, an exclusive handle exists), FREE (frozen, in the allocator, or left under a
      tag that a claim takes),
      TAIL (a tail of a larger block), OFFLINE (its block left the allocator; its metadata stays, or is zeroed),
      SURPLUS (leaked: refused try_gets have added to it), PINNED (leaked: far above the limit, forever)

Every transition from a state of the invariant ends in one, so all reachable states are in it, for every number of
threads T below the limit. R5 is part of it: the proof shows, and does not assume, that the count and the stale
increments stay inside their field. Tails and offline frames are frozen like the others, and late steps of puts and
refused try_gets reach them as well. Each broken variant must lose the proof.

Blind spots: orderings (SPIN's views and loom have them), and all that depends on *which* thread acts, such as R4 (SPIN
has it).
"""

import sys
import time
from z3 import And, If, Implies, Int, IntVal, Not, Or, Solver, sat, unsat

FIELD = 2**31  # the bit above the count, which the count must not reach
SAT = 2**30
PIN = SAT + SAT // 2
LIM = 2**30  # stale increments from which a refused try_get loops until they are reset
MOST = 2**10  # references in one operation
LIVE, OWNED, FREE, TAIL, OFFLINE, SURPLUS, PINNED = range(7)
AT_REST = [OWNED, FREE, TAIL, OFFLINE]  # frozen
NAMES = ["w", "h", "p", "u", "g", "r", "s", "o", "ph"]

# Threads, each between two steps of at most one operation. The only assumption is that there are at most 2^18.
T = Int("T")
N = Int("N")  # references of one operation
ASSUME = And(T >= 1, N >= 1, N <= MOST, T * MOST <= SAT // 4)


class State:
    def __init__(self, suffix):
        for name in NAMES:
            setattr(self, name, Int(name + suffix))


def step(a, b, **changed):
    return And(*[getattr(b, name) == changed.get(name, getattr(a, name)) for name in NAMES])


def busy(a):
    """Threads that are between two steps."""
    return a.p + a.u + a.g + a.r


def transitions(a, b, broken):
    free_thread = busy(a) < T
    frozen = Or(*[a.ph == phase for phase in AT_REST])
    live = Not(frozen)
    t = {}
    admits = a.w + N < SAT if broken != "no saturation" else a.w >= 0
    t["try_get"] = And(live, admits, step(a, b, w=a.w + N, h=a.h + N))
    # Refused because it would saturate: the increment has no holder.
    t["try_get saturates"] = And(live, a.ph != PINNED, free_thread, a.w + N >= SAT,
                                 step(a, b, w=a.w + N, s=a.s + N, r=a.r + 1, ph=IntVal(SURPLUS)))
    t["try_get pinned"] = And(a.ph == PINNED, free_thread, a.w + N >= SAT, step(a, b, w=a.w + N, r=a.r + 1))
    t["try_get refused"] = And(frozen, free_thread, step(a, b, w=a.w + N, u=a.u + 1))
    # It compares the stale increments: below the limit it ends; otherwise it resets them, or another thread did.
    t["judge: below"] = And(a.u >= 1, Or(live, a.w < LIM), step(a, b, u=a.u - 1))
    if broken == "one attempt":
        t["judge: below"] = And(a.u >= 1, step(a, b, u=a.u - 1))
    t["judge: reset"] = And(a.u >= 1, frozen, a.w >= LIM, step(a, b, w=IntVal(0), u=a.u - 1))
    if broken == "reset loses the tag":
        t["judge: reset, unused"] = And(a.u >= 1, frozen, a.w >= LIM,
                                        step(a, b, w=IntVal(0), u=a.u - 1, ph=IntVal(FREE)))
    if broken == "undo by subtraction":
        t["judge: undo"] = And(a.u >= 1, step(a, b, w=a.w - N, u=a.u - 1))
    # get: the caller holds a reference.
    t["get"] = And(a.h >= 1, live, admits, step(a, b, w=a.w + N, h=a.h + N))
    t["get saturates"] = And(a.h >= 1, live, free_thread, a.w + N >= SAT, step(a, b, w=a.w + N, h=a.h + N, g=a.g + 1))
    # put: at 0 it owes its second step, above the limit the pin.
    t["put"] = And(a.h >= N, live, a.w - N != 0, a.w - N < SAT, step(a, b, w=a.w - N, h=a.h - N))
    t["put to 0"] = And(a.h >= N, live, free_thread, a.w == N, step(a, b, w=IntVal(0), h=a.h - N, p=a.p + 1))
    t["put saturated"] = And(a.h >= N, live, free_thread, a.w - N >= SAT, step(a, b, w=a.w - N, h=a.h - N, g=a.g + 1))
    if broken == "no pin":
        t["pin: forgotten"] = And(a.g >= 1, step(a, b, g=a.g - 1))
    else:
        t["pin"] = And(a.g >= 1, live, a.w >= SAT, step(a, b, w=IntVal(PIN), s=IntVal(0), g=a.g - 1, ph=IntVal(PINNED)))
        t["pin: not needed"] = And(a.g >= 1, Or(frozen, a.w < SAT), step(a, b, g=a.g - 1))
    t["pin by the refused"] = And(a.r >= 1, live, step(a, b, w=IntVal(PIN), s=IntVal(0), r=a.r - 1, ph=IntVal(PINNED)))
    if broken == "pin only what still is saturated":
        t["the refused finds it below"] = And(a.r >= 1, a.w < SAT, step(a, b, r=a.r - 1))
    # The second step: a compare-and-swap from the live word with count 0.
    t["finish: won"] = And(a.p >= 1, live, a.w == 0, step(a, b, p=a.p - 1, o=a.o + 1, ph=IntVal(OWNED)))
    t["finish: lost"] = And(a.p >= 1, Or(frozen, a.w != 0), step(a, b, p=a.p - 1))
    if broken == "left dying":
        t["revive free"] = And(a.ph == FREE, step(a, b, w=a.w + N, h=a.h + N))
    # freeze: the expected references are the caller's own, or held for it, so at least as many are held.
    if broken == "not its own":
        t["freeze"] = And(live, a.w == N, step(a, b, w=IntVal(0), h=a.h - N + 1, o=a.o + 1, ph=IntVal(OWNED)))
    else:
        t["freeze"] = And(live, a.h >= N, a.w == N, step(a, b, w=IntVal(0), h=a.h - N, o=a.o + 1, ph=IntVal(OWNED)))
    t["to the allocator"] = And(a.ph == OWNED, step(a, b, o=a.o - 1, ph=IntVal(FREE)))
    t["from the allocator"] = And(a.ph == FREE, step(a, b, o=a.o + 1, ph=IntVal(OWNED)))
    # By its tag instead of a list: a compare-and-swap and a store, both without stale increments.
    t["left under a tag"] = And(a.ph == OWNED, step(a, b, w=IntVal(0), o=a.o - 1, ph=IntVal(FREE)))
    t["claimed by its tag"] = And(a.ph == FREE, step(a, b, w=IntVal(0), o=a.o + 1, ph=IntVal(OWNED)))
    if broken == "claim keeps the tag":
        t["claimed by its tag"] = And(Or(a.ph == FREE, a.ph == OWNED),
                                      step(a, b, w=IntVal(0), o=a.o + 1, ph=IntVal(OWNED)))
    # A larger block around it is allocated, split or freed.
    t["becomes a tail"] = And(a.ph == FREE, step(a, b, ph=IntVal(TAIL)))
    t["tail: split off"] = And(a.ph == TAIL, step(a, b, o=a.o + 1, ph=IntVal(OWNED)))
    t["tail: freed"] = And(a.ph == TAIL, step(a, b, ph=IntVal(FREE)))
    if broken == "tail left live":
        t["tail: live"] = And(a.ph == FREE, step(a, b, w=IntVal(1), ph=IntVal(LIVE)))
    # Its block goes offline and returns. Where zero means frozen, its word may be zeroed meanwhile (R7).
    t["goes offline"] = And(a.ph == FREE, step(a, b, ph=IntVal(OFFLINE)))
    t["comes online"] = And(a.ph == OFFLINE, step(a, b, ph=IntVal(FREE)))
    t["offline: zeroed"] = And(a.ph == OFFLINE, step(a, b, w=IntVal(0)))
    if broken == "zeroed where zero is live":
        t["offline: zeroed"] = And(a.ph == OFFLINE, step(a, b, w=IntVal(0), ph=IntVal(LIVE)))
    start = N if broken != "keeps noise" else a.w + N
    t["unfreeze"] = And(a.ph == OWNED, step(a, b, w=start, h=N, o=a.o - 1, ph=IntVal(LIVE)))
    return t


def invariant(a):
    # R5: the stale increments are below the limit plus one increment of each thread that has not compared yet.
    frozen = And(a.h == 0, a.s == 0, a.r == 0, a.w >= 0, a.w < LIM + MOST * a.u)
    # The count is the references held; at 0 a put will finish it: never a leak. It is above the limit only while a
    # thread owes a pin.
    live = And(a.w == a.h, a.s == 0, a.r == 0, Implies(a.w == 0, a.p >= 1), a.w < SAT + MOST * a.g)
    # The increments of refused try_gets keep the count above the references held, until one of them pins it.
    surplus = And(a.s >= 1, a.r >= 1, a.w == a.h + a.s, a.w < SAT + MOST * (a.g + a.r))
    pinned = And(a.s == 0, a.w >= PIN - MOST * (a.g + a.r), a.w <= PIN + MOST * (a.g + a.r))
    return And(
        # R3: an owned frame has one exclusive handle, and another has none.
        a.o == If(a.ph == OWNED, 1, 0),
        a.h >= 0, a.p >= 0, a.u >= 0, a.g >= 0, a.r >= 0, busy(a) <= T, a.ph >= 0, a.ph <= 6,
        If(a.ph == LIVE, live, If(a.ph == SURPLUS, surplus, If(a.ph == PINNED, pinned, frozen))),
    )


def safe(a):
    """The consequences: R1 to R3 and R5 for the word."""
    leaked = Or(a.ph == SURPLUS, a.ph == PINNED)
    return And(
        # R5: the count and the stale increments stay in their field, also after one more operation of every thread.
        a.w >= 0, a.w + MOST * (T - busy(a)) < FIELD,
        # R1, R3: a frame with an owner has no holders.
        Implies(Or(*[a.ph == phase for phase in AT_REST]), a.h == 0),
        # A leaked frame is never won: neither by the last put nor by a freeze, which needs its own references.
        Implies(leaked, And(a.w > 0, Or(a.w > a.h, a.w > SAT))),
        # R3: no reference is lost: a frame without a holder has a put that will free it.
        Implies(And(a.ph == LIVE, a.h == 0), a.p >= 1),
    )


def prove(broken):
    a, b = State(""), State("'")
    failed = []
    for name, transition in transitions(a, b, broken).items():
        solver = Solver()
        solver.set("timeout", 60000)
        solver.add(ASSUME, invariant(a), transition, Not(invariant(b)))
        result = solver.check()
        if result != unsat:
            model = solver.model() if result == sat else None
            shown = ", ".join(f"{n}={model[getattr(a, n)]}" for n in NAMES if model[getattr(a, n)] is not None) if model else result
            failed.append(f"{name} from {shown}")
    return failed


def main():
    ok = True
    a = State("")
    solver = Solver()
    solver.add(ASSUME, invariant(a), Not(safe(a)))
    if solver.check() != unsat:
        ok = False
        print(f"BAD the invariant does not give the rules: {solver.model()}")
    solver = Solver()
    solver.add(ASSUME, a.w == 0, a.h == 0, a.p == 0, a.u == 0, a.g == 0, a.r == 0, a.s == 0, a.o == 0, a.ph == FREE, Not(invariant(a)))
    if solver.check() != unsat:
        ok = False
        print("BAD a new frame is not in the invariant")
    for broken in [None, "no saturation", "one attempt", "undo by subtraction", "no pin",
                   "pin only what still is saturated", "left dying", "not its own", "keeps noise", "tail left live",
                   "zeroed where zero is live", "claim keeps the tag", "reset loses the tag"]:
        started = time.time()
        failed = prove(broken)
        right = bool(failed) == (broken is not None)
        ok &= right
        said = f"lost at {failed[0]}" if failed else "inductive, any number of threads and lifetimes"
        print(f"{'ok ' if right else 'BAD'} {broken or 'the protocol'}: {said}; {time.time() - started:.1f} s")
    sys.exit(0 if ok else 1)


main()
