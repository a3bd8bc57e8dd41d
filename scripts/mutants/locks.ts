// Mistakes that locks on extents could have, alone and under `auto`.

import { type Edit, foundBy, foundExploring, type Mutant, mutant } from './mutant.ts'

const LOCKS = 'engine/order/extent-locks.ts'
const LOCK_EXTENTS = 'engine/order/lock-extents.ts'
const AUTO = 'engine/order/auto.ts'

/** A lock is given away whatever is under way in it, and nothing is noticed when that ends. */
const GRANTED_IN_USE: readonly Edit[] = [
  {
    file: LOCKS,
    find: '    lock.closed = true\n    if (lock.uses === 0) this.#leave(lock)',
    replace: '    lock.closed = true\n    this.#leave(lock)',
  },
  {
    file: LOCKS,
    find: 'assert(lock !== undefined && lock.uses > 0, ',
    replace: 'if (lock === undefined || lock.uses === 0) continue\n      assert(lock.uses > 0, ',
  },
]

const KEPT_OUT_OF_ORDER = `    const first = this.firstExtent(write)
    const last = this.lastExtent(write)
    const holder = write as LocalWrite & { kept?: Set<number>; keptIn?: number }
    if (holder.kept === undefined || holder.keptIn !== this.#generation) holder.kept = new Set()
    holder.keptIn = this.#generation
    for (let extent = first; extent <= last; extent++) {
      const lock = this.#locks.get(extent)
      if (holder.kept.has(extent) || lock === undefined || lock.state !== 'mine' || lock.closed) continue
      lock.uses++
      holder.kept.add(extent)
    }
    if (holder.kept.size < last - first + 1) return next < 0 ? next : first
    holder.kept = undefined as unknown as Set<number>
    return last + 1
  }

  #keepInOrder(write: LocalWrite, next: number): number {
`

const held: readonly Mutant[] = [
  {
    name: 'lock-granted-while-in-use',
    what: 'a lock is handed over while writes are under way in its extent',
    edits: GRANTED_IN_USE,
  },
  foundBy(
    'link-flaps-under-lock-extents',
    mutant(
      'locks-kept-after-a-disconnect',
      'a host keeps its locks when the link is lost',
      LOCKS,
      '    this.#locks.clear()\n    this.#generation++\n',
      '',
    ),
  ),
  mutant(
    'lock-kept-at-hand-over',
    'who hands a lock over goes on writing',
    LOCKS,
    '      this.#locks.delete(extent)\n      this.#host.sendLockGrant(extent, { shared: false, keptMs })\n',
    '      lock.wanted = false\n      lock.closed = false\n      this.#host.sendLockGrant(extent, { shared: false, keptMs })\n',
  ),
  {
    name: 'lock-in-use-forgotten',
    what: 'to make room a lock is forgotten that writes use',
    edits: [
      {
        file: LOCKS,
        find: "if (lock.state !== 'mine' || lock.uses > 0 || lock.wanted) continue",
        replace: "if (lock.state !== 'mine' || lock.wanted) continue",
      },
      ...GRANTED_IN_USE.slice(1),
    ],
    by: { scenario: 'more-extents-in-use-than-locks' },
  },
  mutant(
    'no-lock-for-the-loser',
    'the host without the flag writes without locks',
    LOCK_EXTENTS,
    'if (!this.host.connected || !this.host.peerMayWrite) {',
    'if (!this.host.connected || !this.host.peerMayWrite || !this.host.holdsFlag) {',
  ),
]

const waiting: readonly Mutant[] = [
  foundExploring(
    'two-writes-spanning',
    mutant(
      'spanning-write-locks-out-of-order',
      'a write over several extents keeps the locks that are there while it waits for lower ones',
      LOCKS,
      '  #keep(write: LocalWrite, next: number): number {\n',
      `  #keep(write: LocalWrite, next: number): number {\n${KEPT_OUT_OF_ORDER}`,
    ),
  ),
  foundExploring(
    'two-writes-equal',
    mutant(
      'crossing-requests-both-wait',
      'of two requests that cross neither is granted',
      LOCKS,
      'else if (this.#host.holdsFlag) this.#want(lock)',
      'else if (lock.uses >= 0) this.#want(lock)',
    ),
  ),
  mutant(
    'crossing-requests-both-granted',
    'of two requests that cross both are granted',
    LOCKS,
    'else if (this.#host.holdsFlag) this.#want(lock)',
    'else if (lock.uses < 0) this.#want(lock)',
  ),
  mutant(
    'grant-wakes-nobody',
    'writes that wait for a lock are not started when it comes',
    LOCKS,
    '    this.#advance()\n    if (lock.wanted) this.#maybeClose(lock)',
    '    if (lock.wanted) this.#maybeClose(lock)',
  ),
  mutant(
    'left-behind-at-hand-over',
    'writes that a closed lock has kept out do not ask for it again',
    LOCKS,
    '    if (this.#waiters.length > 0) this.#advance()\n  }\n\n  /** The coordinator takes',
    '  }\n\n  /** The coordinator takes',
  ),
  {
    name: 'closed-lock-entered',
    what: 'new writes enter a lock that the peer has waited for long enough: no fair hand-over',
    edits: [
      {
        file: LOCKS,
        find: "if (lock === undefined || lock.state !== 'mine' || lock.closed) return extent",
        replace: "if (lock === undefined || lock.state !== 'mine') return extent",
      },
    ],
    by: { scenario: 'duel-under-locks-is-fair' },
  },
  {
    name: 'no-minimum-hold',
    what: 'a lock goes to and fro for each write',
    edits: [
      { file: LOCKS, find: 'if (this.#host.nowMs < lock.holdUntilMs) {', replace: 'if (this.#host.nowMs < 0) {' },
    ],
    by: { scenario: 'duel-under-locks-is-fair' },
  },
  {
    name: 'holds-teach-each-other',
    what: "the peer's turn counts as part of what a hand-over costs: turns become longer and longer",
    edits: [
      {
        file: LOCKS,
        find: 'const tripMs = nowMs - lock.requestedAtMs - keptMs',
        replace: 'const tripMs = nowMs - lock.requestedAtMs - Math.min(0, keptMs)',
      },
    ],
    by: { scenario: 'duel-under-locks-is-fair' },
  },
]

export const lockMutants: readonly Mutant[] = [...held, ...waiting]

export const autoMutants: readonly Mutant[] = [
  {
    name: 'auto-switches-with-writes-in-flight',
    what: 'an extent becomes shared, or locked again, while writes are under way in it',
    edits: [
      ...GRANTED_IN_USE,
      {
        file: LOCKS,
        find: "assert(lock.shared && lock.state === 'mine' && lock.uses === 0, ",
        replace: 'lock.uses = 0\n    assert(lock.shared, ',
      },
    ],
  },
  foundExploring(
    'two-writes-equal-shared',
    mutant(
      'share-not-told',
      'the coordinator shares an extent, and its grant does not say so',
      LOCKS,
      'this.#host.sendLockGrant(extent, { shared: true, keptMs })',
      'this.#host.sendLockGrant(extent, { shared: false, keptMs })',
    ),
  ),
  mutant(
    'share-not-heard',
    'the other host writes in a shared extent as if it had the lock',
    LOCKS,
    '    lock.shared = shared\n',
    '    lock.shared = shared && extent < 0\n',
  ),
  foundExploring(
    'two-writes-spanning-next-shared',
    mutant(
      'spanning-write-asks-for-its-first-extent',
      'a write over several extents asks only if the first one is shared',
      AUTO,
      'extent <= last; extent++)\n      if (this.locks.lock(extent)?.shared === true) return true',
      'extent <= Math.min(last, this.locks.firstExtent(write)); extent++)\n      if (this.locks.lock(extent)?.shared === true) return true',
    ),
  ),
  foundBy(
    'link-flaps-under-auto',
    mutant(
      'shares-kept-after-a-disconnect',
      'all extents stay what they were when the link is lost',
      AUTO,
      '    super.onPeerLost()\n',
      '',
    ),
  ),
  mutant(
    'other-host-shares',
    'the host that does not coordinate shares extents, too',
    AUTO,
    'if (!this.host.coordinates || !this.#isContested(extent)) return false',
    'if (!this.#isContested(extent)) return false',
  ),
  mutant(
    'auto-position-ignored',
    'in a shared extent a write that was ordered does not wait for earlier ones of the coordinator',
    'engine/asked-writes.ts',
    'write.orderedAt = this.#io.peer.nextPosition()',
    'write.orderedAt = 0',
  ),
  {
    name: 'contested-extent-never-shared',
    what: 'an extent that both fight for goes to and fro for ever',
    edits: [
      { file: AUTO, find: 'return count >= AUTO_HANDOVERS', replace: 'return count >= 1_000_000 * AUTO_HANDOVERS' },
    ],
    by: { scenario: 'contested-extents-are-shared-and-locked-again' },
  },
  {
    name: 'shared-extent-never-locked-again',
    what: 'an extent that only one host uses stays shared',
    edits: [
      {
        file: AUTO,
        find: 'if (lock.uses > 0 || nowMs - lock.lastUseMs < AUTO_IDLE_MS) {',
        replace: 'if (lock.uses >= 0 || nowMs - lock.lastUseMs < AUTO_IDLE_MS) {',
      },
    ],
    by: { scenario: 'contested-extents-are-shared-and-locked-again' },
  },
]
