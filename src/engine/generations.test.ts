// Goal: two hosts that meet again agree who copies from whom, by every rule of the protocol (sections 5.4 to 5.6).
// Method: one test for each rule, each step and each policy, looked at from both sides; random inputs for the mirror
// property; and the lives of two disks, played with the operations of 5.1 and 5.5, that must end with equal UUIDs.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { newCurrent, sameGeneration, type Uuids } from '../meta/uuids.ts'
import {
  AFTER_SB_CALL_PRI_LOST,
  AFTER_SB_CONSENSUS,
  AFTER_SB_DISCARD_LEAST_CHANGES,
  AFTER_SB_DISCARD_LOCAL,
  AFTER_SB_DISCARD_OLDER_PRIMARY,
  AFTER_SB_DISCARD_REMOTE,
  AFTER_SB_DISCARD_SECONDARY,
  AFTER_SB_DISCARD_YOUNGER_PRIMARY,
  AFTER_SB_DISCARD_ZERO_CHANGES,
  AFTER_SB_DISCONNECT,
  AFTER_SB_VIOLENTLY,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  D_UPTODATE,
  FF_TRIM,
  FF_WSAME,
  R_PRIMARY,
  R_SECONDARY,
  R_UNKNOWN,
} from '../wire/drbd/constants.ts'
import {
  type CompareInput,
  type CompareResult,
  type Comparison,
  compareGenerations,
  type DecideInput,
  decideSync,
  finishUuidsSource,
  finishUuidsTarget,
  type GenerationView,
  NEEDS_NEWER,
  SPLIT_BRAIN,
  SPLIT_BRAIN_AUTO,
  type SyncDecision,
  startUuidsSource,
  startUuidsTarget,
  UNRELATED,
} from './generations.ts'

const OFFSET = 1n << 48n

/** UUIDs by letters: the numbers do not matter, only which are equal. */
const A = 0xa0n
const B = 0xb0n
const C = 0xc0n
const D = 0xd0n
const E = 0xe0n
const F = 0xf0n

function view(current: bigint, bitmap = 0n, history1 = 0n, history2 = 0n, dirtyBits = 0): GenerationView {
  return { current, bitmap, history1, history2, dirtyBits, uuidFlags: 0 }
}

function uuids(current: bigint, bitmap = 0n, history1 = 0n, history2 = 0n): Uuids {
  return { current, bitmap, history1, history2 }
}

type Overrides<T> = Partial<Omit<T, 'self' | 'peer'>>

function compareInput(self: GenerationView, peer: GenerationView, more: Overrides<CompareInput> = {}): CompareInput {
  return {
    self,
    peer,
    selfCrashedPrimary: false,
    peerCrashedPrimary: false,
    selfRole: R_SECONDARY,
    peerRole: R_SECONDARY,
    apv: 101,
    features: FF_WSAME,
    resolveConflicts: false,
    survivorWins: false,
    ...more,
  }
}

/** The same meeting as the peer sees it. */
function mirrored(input: CompareInput): CompareInput {
  return {
    ...input,
    self: input.peer,
    peer: input.self,
    selfCrashedPrimary: input.peerCrashedPrimary,
    peerCrashedPrimary: input.selfCrashedPrimary,
    selfRole: input.peerRole,
    peerRole: input.selfRole,
    resolveConflicts: !input.resolveConflicts,
  }
}

const mirrorResult = (result: number): number => (Math.abs(result) >= 100 ? result : 0 - result)

const MIRROR_RULES = new Map([
  [20, 30],
  [34, 35],
  [36, 37],
  [50, 70],
  [51, 71],
  [60, 80],
])
const mirrorRule = (rule: number): number => {
  for (const [one, other] of MIRROR_RULES) {
    if (rule === one) return other
    if (rule === other) return one
  }
  return rule
}

/** Checks the result here, and that the peer comes to the mirrored one by the mirrored rule. */
function expectRule(input: CompareInput, rule: number, result: CompareResult): Comparison {
  const own = compareGenerations(input)
  assert.deepEqual({ rule: own.rule, result: own.result }, { rule, result })
  assert.equal(own.failure, result === NEEDS_NEWER ? 'needs-newer-protocol' : undefined)
  const other = compareGenerations(mirrored(input))
  assert.deepEqual(
    { rule: other.rule, result: other.result },
    { rule: mirrorRule(rule), result: mirrorResult(result) },
    'mirror',
  )
  assert.deepEqual(other.self, own.peer)
  assert.deepEqual(other.peer, own.self)
  return own
}

describe('5.4 comparison', () => {
  it('rule 10: both just created', () => {
    expectRule(compareInput(view(4n), view(4n)), 10, 0)
    expectRule(compareInput(view(5n), view(4n)), 10, 0)
  })

  it('rules 20 and 30: one just created, or without a generation', () => {
    expectRule(compareInput(view(4n), view(A)), 20, -2)
    expectRule(compareInput(view(5n), view(A)), 20, -2)
    expectRule(compareInput(view(0n), view(A)), 20, -2)
    expectRule(compareInput(view(A), view(4n)), 30, 2)
    expectRule(compareInput(view(A), view(0n)), 30, 2)
    expectRule(compareInput(view(0n), view(4n)), 30, 2)
    expectRule(compareInput(view(4n), view(0n)), 20, -2)
  })

  it('rules 34 and 35: the source missed "resync finished" and corrects itself, the target its copy', () => {
    const source = view(A, B + OFFSET, B, C)
    const target = view(A, 0n, B + OFFSET, B)
    const found = expectRule(compareInput(source, target), 34, 1)
    assert.deepEqual(found.self, uuids(A, 0n, B + OFFSET, B))
    assert.equal(found.peer, undefined)
    const other = expectRule(compareInput(target, source), 35, -1)
    assert.deepEqual(other.peer, uuids(A, 0n, B + OFFSET, B))
    assert.equal(other.self, undefined)
    expectRule(compareInput(source, target, { apv: 91 }), 34, 1)
    expectRule(compareInput(source, target, { apv: 90 }), 34, NEEDS_NEWER)
  })

  it('rules 34 and 35 need both history slots to fit', () => {
    expectRule(compareInput(view(A, B, C, D), view(A, 0n, B, E)), 36, 1)
    expectRule(compareInput(view(A, B, C, D), view(A, 0n, E, C)), 36, 1)
    expectRule(compareInput(view(A, 0n, B, E), view(A, B, C, D)), 37, -1)
    expectRule(compareInput(view(A, 0n, E, C), view(A, B, C, D)), 37, -1)
  })

  it('rules 36 and 37: one side alone counts differences', () => {
    assert.equal(expectRule(compareInput(view(A, B), view(A, 0n, C)), 36, 1).self, undefined)
    assert.equal(expectRule(compareInput(view(A, 0n, C), view(A, B)), 37, -1).peer, undefined)
    expectRule(compareInput(view(A, B), view(A), { apv: 90 }), 36, NEEDS_NEWER)
  })

  it('rules 34 to 37 test BITMAP for zero exactly (gotcha 22)', () => {
    expectRule(compareInput(view(A, 1n, C, D), view(A, 0n, E, F)), 36, 1)
    expectRule(compareInput(view(A, B), view(A, 1n)), 40, 0)
  })

  it('rule 40: equal generations, nobody crashed', () => {
    expectRule(compareInput(view(A), view(A)), 40, 0)
    expectRule(compareInput(view(A | 1n), view(A)), 40, 0)
    expectRule(compareInput(view(A, B), view(A, C)), 40, 0)
    expectRule(compareInput(view(A, 0n, B, C, 7), view(A, 0n, D, E, 0)), 40, 0)
    expectRule(compareInput(view(A), view(A), { selfRole: R_PRIMARY, features: 0, apv: 86 }), 40, 0)
  })

  it('rule 41: a crashed Primary, and somebody is Primary now', () => {
    const equal = [view(A), view(A)] as const
    for (const crashed of [{ selfCrashedPrimary: true }, { peerCrashedPrimary: true }]) {
      expectRule(compareInput(...equal, { ...crashed, selfRole: R_PRIMARY }), 41, 1)
      expectRule(compareInput(...equal, { ...crashed, peerRole: R_PRIMARY }), 41, -1)
      expectRule(compareInput(...equal, { ...crashed, selfRole: R_PRIMARY, peerRole: R_PRIMARY }), 41, SPLIT_BRAIN)
      expectRule(compareInput(...equal, { ...crashed, selfRole: R_PRIMARY, features: FF_TRIM }), 41, NEEDS_NEWER)
    }
  })

  it('rule 40 with one crashed Primary: it is the source, as in DRBD', () => {
    expectRule(compareInput(view(A), view(A), { selfCrashedPrimary: true }), 40, 1)
    expectRule(compareInput(view(A), view(A), { peerCrashedPrimary: true }), 40, -1)
    expectRule(compareInput(view(A), view(A), { peerCrashedPrimary: true, features: 0 }), 40, -1)
    expectRule(compareInput(view(A), view(A), { peerCrashedPrimary: true, peerRole: R_UNKNOWN }), 40, -1)
  })

  it('rule 43 (ours): one crashed Primary, the survivor or a Primary is the source, whoever missed the end of a resync', () => {
    const pairs = [
      [view(A), view(A)],
      [view(A, B, C), view(A, 0n, B, C)],
      [view(A, 0n, B, C), view(A, B, C)],
    ] as const
    for (const [self, peer] of pairs) {
      const crashed = { selfCrashedPrimary: true, survivorWins: true }
      expectRule(compareInput(self, peer, crashed), 43, -1)
      expectRule(compareInput(self, peer, { ...crashed, peerRole: R_PRIMARY }), 43, -1)
      expectRule(compareInput(self, peer, { ...crashed, selfRole: R_PRIMARY }), 43, 1)
      expectRule(compareInput(self, peer, { peerCrashedPrimary: true, survivorWins: true }), 43, 1)
    }
  })

  it('rule 40 with two crashed Primaries: the flag holder is the target', () => {
    for (const survivorWins of [false, true]) {
      const more = { selfCrashedPrimary: true, peerCrashedPrimary: true, survivorWins }
      expectRule(compareInput(view(A), view(A), { ...more, resolveConflicts: true }), 40, -1)
      expectRule(compareInput(view(A), view(A), { ...more, resolveConflicts: false }), 40, 1)
    }
  })

  it('rule 42 (ours): the link came back before anybody moved on, with blocks out of sync', () => {
    const dirty = [view(A, 0n, B, C, 3), view(A, 0n, B, C, 0)] as const
    const both = { selfRole: R_PRIMARY, peerRole: R_PRIMARY }
    for (const roles of [{}, both]) {
      const more = { survivorWins: true, ...roles }
      expectRule(compareInput(...dirty, { ...more, resolveConflicts: true }), 42, 1)
      expectRule(compareInput(...dirty, { ...more, resolveConflicts: false }), 42, -1)
    }
    for (const resolveConflicts of [false, true]) {
      const more = { survivorWins: true, resolveConflicts }
      expectRule(compareInput(...dirty, { ...more, selfRole: R_PRIMARY }), 42, 1)
      expectRule(compareInput(...dirty, { ...more, peerRole: R_PRIMARY }), 42, -1)
      expectRule(compareInput(view(A, 0n, B, C, 0), view(A, 0n, B, C, 1), { ...more, peerRole: R_PRIMARY }), 42, -1)
    }
    expectRule(compareInput(view(A), view(A), { survivorWins: true }), 40, 0)
    expectRule(compareInput(view(A, B, 0n, 0n, 3), view(A, C), { survivorWins: true }), 40, 0)
    expectRule(compareInput(view(A, 1n, 0n, 0n, 3), view(A, 1n), { survivorWins: true }), 40, 0)
  })

  it('rules 50 and 70: the own generation is the base of the other bitmap', () => {
    expectRule(compareInput(view(A), view(B, A)), 50, -1)
    expectRule(compareInput(view(A), view(B, A | 1n)), 50, -1)
    expectRule(compareInput(view(B | 1n, A), view(A)), 70, 1)
    expectRule(compareInput(view(B, A), view(A), { apv: 86 }), 70, 1)
  })

  it('rules 51 and 71: the P_SYNC_UUID was lost', () => {
    const target = view(A, 0n, D, E)
    const source = view(B, A + OFFSET, A | 1n, C)
    const found = expectRule(compareInput(target, source), 51, -1)
    assert.deepEqual(found.peer, uuids(B, A | 1n, C, C))
    const other = expectRule(compareInput(source, target), 71, 1)
    assert.deepEqual(other.self, uuids(B, A | 1n, C, C))
    expectRule(compareInput(target, source, { apv: 96 }), 51, -1)
  })

  it('rules 51 and 71 wrap around at 2^64', () => {
    const high = 0xffff_0000_0000_00a0n
    expectRule(compareInput(view(high), view(B, 0xa0n, high)), 51, -1)
  })

  it('rules 51 and 71 below APV 96 look at the history, below 91 they fail', () => {
    const target = view(A, 0n, D, E)
    const source = view(B, C, A, D)
    expectRule(compareInput(target, source, { apv: 95 }), 51, -1)
    expectRule(compareInput(source, target, { apv: 95 }), 71, 1)
    expectRule(compareInput(target, source, { apv: 91 }), 51, -1)
    expectRule(compareInput(target, source, { apv: 90 }), 51, NEEDS_NEWER)
    expectRule(compareInput(target, source, { apv: 96 }), 60, -2)
    expectRule(compareInput(target, view(B, A + OFFSET, A, C), { apv: 95 }), 60, -2)
  })

  it('rules 60 and 80: the own generation is an older one of the peer', () => {
    expectRule(compareInput(view(A), view(B, C, A, D)), 60, -2)
    expectRule(compareInput(view(A), view(B, C, D, A)), 60, -2)
    expectRule(compareInput(view(B, C, A, D), view(A)), 80, 2)
    expectRule(compareInput(view(B, C, D, A | 1n), view(A)), 80, 2)
    expectRule(compareInput(view(B, C, A, D), view(A, 0n, E, F), { apv: 90 }), 80, 2)
  })

  it('rule 90: both changed since the same generation', () => {
    expectRule(compareInput(view(A, C), view(B, C | 1n)), 90, SPLIT_BRAIN_AUTO)
    expectRule(compareInput(view(A, 0n, D), view(B, 0n, E)), 100, SPLIT_BRAIN) // two unset BITMAPs are no base
    expectRule(compareInput(view(A, 1n, D, E), view(B, 0n, C, F)), 100, UNRELATED)
  })

  it('rule 100: a common generation in the history, unset slots included (gotcha 22)', () => {
    expectRule(compareInput(view(A, C, D, 2n), view(B, E, D, 6n)), 100, SPLIT_BRAIN)
    expectRule(compareInput(view(A, C, D, 2n), view(B, E, 6n, D)), 100, SPLIT_BRAIN)
    expectRule(compareInput(view(A, C, 2n, D), view(B, E, D, 6n)), 100, SPLIT_BRAIN)
    expectRule(compareInput(view(A, C, 2n, D), view(B, E, 6n, D | 1n)), 100, SPLIT_BRAIN)
    expectRule(compareInput(view(A), view(B)), 100, SPLIT_BRAIN)
  })

  it('otherwise unrelated', () => {
    expectRule(compareInput(view(A, B, C, D), view(E, F, 2n, 6n)), 100, UNRELATED)
  })
})

const viewOf = (uuid: fc.Arbitrary<bigint>): fc.Arbitrary<GenerationView> =>
  fc.record({
    current: uuid,
    bitmap: uuid,
    history1: uuid,
    history2: uuid,
    dirtyBits: fc.constantFrom(0, 0, 1, 5),
    uuidFlags: fc.constant(0),
  })
// Few values, so that many are equal, and once more with nearly as few as a rule can do with.
const anyViews = fc.oneof(
  fc.tuple(...twice(fc.constantFrom(0n, 1n, 4n, 5n, A, A | 1n, B, C, D, A + OFFSET, B + OFFSET, B + OFFSET + 1n))),
  fc.tuple(...twice(fc.constantFrom(0n, A, A | 1n, B, A + OFFSET))),
)
function twice(uuid: fc.Arbitrary<bigint>): [fc.Arbitrary<GenerationView>, fc.Arbitrary<GenerationView>] {
  return [viewOf(uuid), viewOf(uuid)]
}
const anyRole = fc.constantFrom(R_PRIMARY, R_SECONDARY)
const anyCircumstances = fc.record({
  selfCrashedPrimary: fc.boolean(),
  peerCrashedPrimary: fc.boolean(),
  selfRole: anyRole,
  peerRole: anyRole,
  apv: fc.constantFrom(86, 90, 91, 95, 96, 101),
  features: fc.constantFrom(0, FF_WSAME),
  resolveConflicts: fc.boolean(),
  survivorWins: fc.boolean(),
})

const inPast = (current: bigint, of: Uuids): boolean =>
  [of.bitmap, of.history1, of.history2].some((uuid) => sameGeneration(uuid, current))

describe('5.4 mirror property', () => {
  it('holds for all rules but where both CURRENT are unset and where each disk descends from the other', () => {
    const seen = new Map<number, number>()
    const property = fc.property(anyViews, anyCircumstances, (views, circumstances) => {
      const input: CompareInput = { self: views[0], peer: views[1], ...circumstances }
      const own = compareGenerations(input)
      const other = compareGenerations(mirrored(input))
      const { self, peer } = input
      if (sameGeneration(self.current, 0n) && sameGeneration(peer.current, 0n)) {
        // Exception 1: rule 20 on both sides. Neither knows any data.
        assert.deepEqual([own.rule, own.result, other.rule, other.result], [20, -2, 20, -2])
        return
      }
      if (own.rule >= 50 && inPast(self.current, peer) && inPast(peer.current, self)) {
        // Exception 2: rules 50 to 60 come before 70 to 80 on both sides. No sequence of events leads to such disks.
        for (const { rule, result } of [own, other]) {
          assert.ok(rule >= 50 && rule <= 60, `rule ${rule}`)
          assert.ok(result === -1 || result === -2 || result === NEEDS_NEWER, `result ${result}`)
        }
        return
      }
      seen.set(own.rule, (seen.get(own.rule) ?? 0) + 1)
      assert.equal(other.result, mirrorResult(own.result))
      assert.equal(other.rule, mirrorRule(own.rule))
      assert.deepEqual(other.self, own.peer)
      assert.deepEqual(other.peer, own.self)
      assert.equal(other.failure, own.failure)
    })
    fc.assert(property, { numRuns: 20_000, seed: 77 })
    const rules = [10, 20, 30, 34, 35, 36, 37, 40, 41, 42, 50, 51, 60, 70, 71, 80, 90, 100]
    for (const rule of rules) assert.ok((seen.get(rule) ?? 0) > 0, `rule ${rule} was never reached`)
  })

  it('needs the same corrected UUIDs on both sides to go on from', () => {
    // After the corrections of 34/35 both sides compare as equal; after 51/71 as before the resync (50/70).
    const pairs = [
      [view(A, B + OFFSET, B, C), view(A, 0n, B + OFFSET, B), 40, 0],
      [view(B, A + OFFSET, A, C), view(A, 0n, D, E), 70, 1],
    ] as const
    for (const [source, target, rule, result] of pairs) {
      const { self } = compareGenerations(compareInput(source, target))
      assert.ok(self !== undefined)
      expectRule(compareInput({ ...source, ...self }, target), rule, result)
    }
  })
})

function decideInput(result: CompareResult, more: Partial<DecideInput> = {}): DecideInput {
  const compared: Comparison =
    result === NEEDS_NEWER ? { result, rule: 34, failure: 'needs-newer-protocol' } : { result, rule: 100 }
  return {
    compared,
    selfDisk: D_UPTODATE,
    attachDisk: D_UPTODATE,
    peerDisk: D_UPTODATE,
    selfRole: R_SECONDARY,
    peerRole: R_SECONDARY,
    afterSb0p: AFTER_SB_DISCONNECT,
    afterSb1p: AFTER_SB_DISCONNECT,
    afterSb2p: AFTER_SB_DISCONNECT,
    alwaysAsbp: false,
    rrConflict: AFTER_SB_DISCONNECT,
    selfDiscardMyData: false,
    peerDiscardMyData: false,
    dryRun: false,
    selfBitsSent: 5,
    peerBits: 5,
    selfBitmapBit0: false,
    peerBitmapBit0: false,
    resolveConflicts: false,
    coprimePeer: false,
    demote: () => assert.fail('nothing asked for a demotion'),
    ...more,
  }
}

/** `source`, `target full`, or the code of the refusal. */
function outcome(result: CompareResult, more: Partial<DecideInput> = {}): string {
  return spell(decideSync(decideInput(result, more)))
}

function spell(decision: SyncDecision): string {
  if (decision.outcome === 'none' || decision.outcome === 'source' || decision.outcome === 'target') {
    return decision.full ? `${decision.outcome} full` : decision.outcome
  }
  assert.notEqual(decision.reason, '')
  return `${decision.outcome}: ${decision.code}`
}

describe('5.4 steps after the comparison', () => {
  it('steps 9 to 11: direction and full', () => {
    assert.equal(outcome(0), 'none')
    assert.equal(outcome(1), 'source')
    assert.equal(outcome(2), 'source full')
    assert.equal(outcome(-1), 'target')
    assert.equal(outcome(-2), 'target full')
  })

  it('step 1: unrelated data and a too old peer end it, also with an Inconsistent disk', () => {
    for (const more of [{}, { peerDisk: D_INCONSISTENT }, { selfDiscardMyData: true, alwaysAsbp: true }]) {
      assert.equal(outcome(UNRELATED, more), 'unrelated: unrelated-data')
      assert.equal(outcome(NEEDS_NEWER, more), 'refused: peer-too-old')
    }
  })

  it('step 2: exactly one Inconsistent disk decides, and keeps "full"', () => {
    const own = { selfDisk: D_INCONSISTENT }
    const other = { peerDisk: D_INCONSISTENT }
    for (const result of [0, 1, -1, SPLIT_BRAIN_AUTO] as const) {
      assert.equal(outcome(result, own), 'target')
      assert.equal(outcome(result, other), 'source')
    }
    for (const result of [2, -2, SPLIT_BRAIN] as const) {
      assert.equal(outcome(result, own), 'target full')
      assert.equal(outcome(result, other), 'source full')
    }
    assert.equal(outcome(-1, { ...own, ...other }), 'target')
    assert.equal(outcome(0, { selfDisk: D_INCONSISTENT, peerDisk: D_NEGOTIATING }), 'none')
    assert.equal(outcome(-1, { peerDisk: D_INCONSISTENT, selfDisk: D_OUTDATED }), 'source')
  })

  it('step 2: the attach-time state stands for a Negotiating disk', () => {
    assert.equal(outcome(1, { selfDisk: D_NEGOTIATING, attachDisk: D_INCONSISTENT }), 'target')
    assert.equal(outcome(1, { selfDisk: D_NEGOTIATING, attachDisk: D_CONSISTENT }), 'source')
    assert.equal(outcome(1, { selfDisk: D_UPTODATE, attachDisk: D_INCONSISTENT }), 'source')
  })

  it('step 3: policies are for the common base; for -100 only with always-asbp, doubled', () => {
    const policy = { afterSb0p: AFTER_SB_DISCARD_REMOTE }
    assert.equal(outcome(SPLIT_BRAIN_AUTO, policy), 'source')
    assert.equal(outcome(SPLIT_BRAIN, policy), 'split-brain: split-brain')
    assert.equal(outcome(SPLIT_BRAIN, { ...policy, alwaysAsbp: true }), 'source full')
    assert.equal(outcome(SPLIT_BRAIN, { afterSb0p: AFTER_SB_DISCARD_LOCAL, alwaysAsbp: true }), 'target full')
    assert.equal(outcome(1, { afterSb0p: AFTER_SB_DISCARD_LOCAL, alwaysAsbp: true }), 'source')
  })

  it('step 3 goes by the number of Primaries', () => {
    const policies = { afterSb0p: AFTER_SB_DISCARD_LOCAL, afterSb1p: AFTER_SB_DISCARD_SECONDARY }
    assert.equal(outcome(SPLIT_BRAIN_AUTO, policies), 'target')
    assert.equal(outcome(SPLIT_BRAIN_AUTO, { ...policies, selfRole: R_PRIMARY }), 'source')
    const both = { selfRole: R_PRIMARY, peerRole: R_PRIMARY }
    assert.equal(outcome(SPLIT_BRAIN_AUTO, { ...policies, ...both }), 'split-brain: split-brain')
  })

  it('step 4: discard-my-data of one side, never doubled; of both sides nothing', () => {
    for (const result of [SPLIT_BRAIN, SPLIT_BRAIN_AUTO] as const) {
      assert.equal(outcome(result, { selfDiscardMyData: true }), 'target')
      assert.equal(outcome(result, { peerDiscardMyData: true }), 'source')
      const both = { selfDiscardMyData: true, peerDiscardMyData: true }
      assert.equal(outcome(result, both), 'split-brain: split-brain')
    }
    // A policy that decides comes first; without a split brain the option has no effect.
    assert.equal(outcome(SPLIT_BRAIN_AUTO, { afterSb0p: AFTER_SB_DISCARD_REMOTE, selfDiscardMyData: true }), 'source')
    assert.equal(outcome(1, { selfDiscardMyData: true }), 'source')
  })

  it('step 5: an unresolved split brain', () => {
    assert.equal(outcome(SPLIT_BRAIN), 'split-brain: split-brain')
    assert.equal(outcome(SPLIT_BRAIN_AUTO), 'split-brain: split-brain')
  })

  it('step 6: a source needs consistent data', () => {
    for (const disk of [D_DISKLESS, D_FAILED, D_INCONSISTENT]) {
      const more = { selfDisk: disk, peerDisk: D_INCONSISTENT }
      assert.equal(outcome(1, more), 'refused: source-without-data')
      assert.equal(outcome(-1, more), 'target')
    }
    assert.equal(outcome(1, { selfDisk: D_OUTDATED }), 'source')
  })

  it('step 7: a Primary with consistent data becomes target only with rr-conflict violently', () => {
    const primary = { selfRole: R_PRIMARY }
    assert.equal(outcome(-1, primary), 'refused: primary-would-be-target')
    assert.equal(outcome(-1, { ...primary, selfDisk: D_CONSISTENT }), 'refused: primary-would-be-target')
    assert.equal(outcome(-1, { ...primary, rrConflict: AFTER_SB_CALL_PRI_LOST }), 'refused: primary-lost')
    assert.equal(outcome(-1, { ...primary, rrConflict: AFTER_SB_VIOLENTLY }), 'target')
    assert.equal(outcome(-1, { ...primary, rrConflict: AFTER_SB_DISCARD_LOCAL }), 'refused: primary-would-be-target')
    assert.equal(outcome(1, primary), 'source')
    assert.equal(outcome(-1, { peerRole: R_PRIMARY }), 'target')
    // The disk as it is, not as found at attach: nobody has read from a disk that is only being attached.
    assert.equal(outcome(-1, { ...primary, selfDisk: D_OUTDATED }), 'target')
    assert.equal(outcome(-1, { ...primary, selfDisk: D_NEGOTIATING, attachDisk: D_UPTODATE }), 'target')
  })

  it('step 7 is skipped for rule 42', () => {
    const compared: Comparison = { result: -1, rule: 42 }
    assert.equal(outcome(-1, { compared, selfRole: R_PRIMARY, peerRole: R_PRIMARY }), 'target')
  })

  it('step 8: a dry run stops after all that', () => {
    const decision = decideSync(decideInput(-2, { dryRun: true }))
    assert.equal(spell(decision), 'refused: dry-run')
    assert.match('reason' in decision ? decision.reason : '', /target of a full resync/)
    assert.equal(outcome(0, { dryRun: true }), 'refused: dry-run')
    assert.equal(outcome(-1, { dryRun: true, selfRole: R_PRIMARY }), 'refused: primary-would-be-target')
    assert.equal(outcome(SPLIT_BRAIN, { dryRun: true }), 'split-brain: split-brain')
  })
})

const UNDECIDED = 'split-brain: split-brain'

describe('5.6 after-split-brain policies', () => {
  const zero = (afterSb0p: number, more: Partial<DecideInput> = {}): string =>
    outcome(SPLIT_BRAIN_AUTO, { afterSb0p, ...more })

  it('0 Primaries: 0 disconnect, 7 to 10 and unknown numbers are undecided', () => {
    for (const policy of [0, 7, 8, 9, 10, 11, 0xffff_ffff]) assert.equal(zero(policy), UNDECIDED)
  })

  it('0 Primaries: 1 discard-younger-primary', () => {
    const policy = AFTER_SB_DISCARD_YOUNGER_PRIMARY
    assert.equal(zero(policy, { peerBitmapBit0: true, peerBits: 0 }), 'target')
    assert.equal(zero(policy, { selfBitmapBit0: true, selfBitsSent: 0 }), 'source')
    for (const bits of [true, false]) {
      const equal = { selfBitmapBit0: bits, peerBitmapBit0: bits }
      assert.equal(zero(policy, { ...equal, peerBits: 0 }), 'source')
      assert.equal(zero(policy, { ...equal, selfBitsSent: 0 }), 'target')
      assert.equal(zero(policy, { ...equal, selfBitsSent: 1 }), 'target') // 3 undecided, so 4
      assert.equal(zero(policy, { ...equal, selfBitsSent: 9 }), 'source')
    }
  })

  it('0 Primaries: 2 discard-older-primary', () => {
    const policy = AFTER_SB_DISCARD_OLDER_PRIMARY
    assert.equal(zero(policy, { peerBitmapBit0: true, selfBitsSent: 0 }), 'source')
    assert.equal(zero(policy, { selfBitmapBit0: true, peerBits: 0 }), 'target')
    for (const bits of [true, false]) {
      const equal = { selfBitmapBit0: bits, peerBitmapBit0: bits }
      assert.equal(zero(policy, { ...equal, peerBits: 0 }), 'source')
      assert.equal(zero(policy, { ...equal, selfBitsSent: 0 }), 'target')
      assert.equal(zero(policy, { ...equal, selfBitsSent: 1 }), 'target')
    }
  })

  it('0 Primaries: 3 discard-zero-changes', () => {
    const policy = AFTER_SB_DISCARD_ZERO_CHANGES
    assert.equal(zero(policy, { selfBitsSent: 0, peerBits: 0, resolveConflicts: true }), 'target')
    assert.equal(zero(policy, { selfBitsSent: 0, peerBits: 0 }), 'source')
    assert.equal(zero(policy, { peerBits: 0 }), 'source')
    assert.equal(zero(policy, { selfBitsSent: 0 }), 'target')
    assert.equal(zero(policy, { selfBitsSent: 1, peerBits: 2 }), UNDECIDED)
  })

  it('0 Primaries: 4 discard-least-changes', () => {
    const policy = AFTER_SB_DISCARD_LEAST_CHANGES
    assert.equal(zero(policy, { selfBitsSent: 1, peerBits: 2 }), 'target')
    assert.equal(zero(policy, { selfBitsSent: 2, peerBits: 1 }), 'source')
    assert.equal(zero(policy, { resolveConflicts: true }), 'target')
    assert.equal(zero(policy, { resolveConflicts: false }), 'source')
  })

  it('0 Primaries: 5 discard-local, 6 discard-remote', () => {
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE), 'source')
  })

  const VIOLENT = { rrConflict: AFTER_SB_VIOLENTLY }
  const selfPrimary = { selfRole: R_PRIMARY, ...VIOLENT }
  const peerPrimary = { peerRole: R_PRIMARY, ...VIOLENT }

  it('1 Primary: 0 and policies for others are undecided', () => {
    for (const afterSb1p of [0, 1, 2, 3, 4, 5, 6, 11]) {
      assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...selfPrimary, afterSb1p }), UNDECIDED)
    }
  })

  it('1 Primary: 7 consensus', () => {
    const consensus = { afterSb1p: AFTER_SB_CONSENSUS }
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...consensus, ...peerPrimary }), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...consensus, ...selfPrimary }), UNDECIDED)
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...consensus, ...selfPrimary }), 'source')
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...consensus, ...peerPrimary }), UNDECIDED)
    assert.equal(zero(AFTER_SB_DISCONNECT, { ...consensus, ...peerPrimary }), UNDECIDED)
  })

  it('1 Primary: 8 discard-secondary', () => {
    const policy = { afterSb1p: AFTER_SB_DISCARD_SECONDARY }
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, ...selfPrimary }), 'source')
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...policy, ...peerPrimary }), 'target')
  })

  it('1 Primary: 9 call-pri-lost-after-sb', () => {
    const policy = { afterSb1p: AFTER_SB_CALL_PRI_LOST }
    const self = { ...policy, selfRole: R_PRIMARY }
    let asked = 0
    const demote = (success: boolean) => () => {
      asked++
      return success
    }
    // Secondary after the demotion: rr-conflict has no objection any more.
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...self, demote: demote(true) }), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...self, demote: demote(false) }), UNDECIDED)
    assert.equal(asked, 2)
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, self), 'source')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, peerRole: R_PRIMARY }), 'target')
    assert.equal(zero(AFTER_SB_DISCONNECT, self), UNDECIDED)
  })

  it('1 Primary: 10 violently-as0p', () => {
    const policy = { afterSb1p: AFTER_SB_VIOLENTLY }
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, ...selfPrimary }), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...policy, ...peerPrimary }), 'source')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, selfRole: R_PRIMARY }), 'refused: primary-would-be-target')
  })

  const both = { selfRole: R_PRIMARY, peerRole: R_PRIMARY }

  it('2 Primaries: 0 and policies for others are undecided', () => {
    for (const afterSb2p of [0, 1, 2, 3, 4, 5, 6, 7, 8, 11]) {
      assert.equal(zero(AFTER_SB_DISCARD_REMOTE, { ...both, afterSb2p }), UNDECIDED)
    }
  })

  it('2 Primaries: 9 call-pri-lost-after-sb', () => {
    const policy = { ...both, afterSb2p: AFTER_SB_CALL_PRI_LOST }
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, demote: () => true }), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, demote: () => false }), UNDECIDED)
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, policy), 'source')
  })

  it('2 Primaries: 10 violently-as0p', () => {
    const policy = { ...both, afterSb2p: AFTER_SB_VIOLENTLY }
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, { ...policy, ...VIOLENT }), 'target')
    assert.equal(zero(AFTER_SB_DISCARD_LOCAL, policy), 'refused: primary-would-be-target')
    assert.equal(zero(AFTER_SB_DISCARD_REMOTE, policy), 'source')
  })
})

const MIRROR_POLICY = new Map([
  [AFTER_SB_DISCARD_LOCAL, AFTER_SB_DISCARD_REMOTE],
  [AFTER_SB_DISCARD_REMOTE, AFTER_SB_DISCARD_LOCAL],
])

function mirroredDecision(input: DecideInput): DecideInput {
  const { compared } = input
  return {
    ...input,
    compared: { ...compared, result: mirrorResult(compared.result) as CompareResult },
    selfDisk: input.peerDisk,
    peerDisk: input.selfDisk,
    selfRole: input.peerRole,
    peerRole: input.selfRole,
    afterSb0p: MIRROR_POLICY.get(input.afterSb0p) ?? input.afterSb0p,
    selfDiscardMyData: input.peerDiscardMyData,
    peerDiscardMyData: input.selfDiscardMyData,
    selfBitsSent: input.peerBits,
    peerBits: input.selfBitsSent,
    selfBitmapBit0: input.peerBitmapBit0,
    peerBitmapBit0: input.selfBitmapBit0,
    resolveConflicts: !input.resolveConflicts,
  }
}

const anyDisk = fc.constantFrom(D_INCONSISTENT, D_OUTDATED, D_CONSISTENT, D_UPTODATE)
// Policy 9 is left out: whether a demotion succeeds is known on one side only.
const anyDecideInput: fc.Arbitrary<DecideInput> = fc.record({
  compared: fc.record({
    result: fc.constantFrom<CompareResult>(0, 1, -1, 2, -2, SPLIT_BRAIN_AUTO, SPLIT_BRAIN_AUTO, SPLIT_BRAIN, UNRELATED),
    rule: fc.constant(100),
  }),
  selfDisk: anyDisk,
  attachDisk: fc.constant(D_UPTODATE),
  peerDisk: anyDisk,
  selfRole: anyRole,
  peerRole: anyRole,
  afterSb0p: fc.constantFrom(0, 1, 2, 3, 4, 5, 6),
  afterSb1p: fc.constantFrom(0, 7, 8, 10),
  afterSb2p: fc.constantFrom(0, 10),
  alwaysAsbp: fc.boolean(),
  rrConflict: fc.constantFrom(0, 9, 10),
  selfDiscardMyData: fc.boolean(),
  peerDiscardMyData: fc.boolean(),
  dryRun: fc.constant(false),
  selfBitsSent: fc.constantFrom(0, 1, 2),
  peerBits: fc.constantFrom(0, 1, 2),
  selfBitmapBit0: fc.boolean(),
  peerBitmapBit0: fc.boolean(),
  resolveConflicts: fc.boolean(),
  coprimePeer: fc.boolean(),
  demote: fc.constant(() => assert.fail('nothing asked for a demotion')),
})

describe('decision mirror property', () => {
  it('is mirrored; what one side refuses for itself (steps 6 and 7), the other takes for the opposite role', () => {
    const expected = new Map([
      ['none', ['none']],
      ['source', ['target', 'refused: primary-would-be-target', 'refused: primary-lost']],
      ['source full', ['target full', 'refused: primary-would-be-target', 'refused: primary-lost']],
      ['target', ['source', 'refused: source-without-data']],
      ['target full', ['source full', 'refused: source-without-data']],
      ['refused: source-without-data', ['target', 'target full']],
      ['refused: primary-would-be-target', ['source', 'source full']],
      ['refused: primary-lost', ['source', 'source full']],
      ['split-brain: split-brain', ['split-brain: split-brain']],
      ['unrelated: unrelated-data', ['unrelated: unrelated-data']],
    ])
    const seen = new Set<string>()
    const property = fc.property(anyDecideInput, (input) => {
      const own = spell(decideSync(input))
      const other = spell(decideSync(mirroredDecision(input)))
      seen.add(own)
      assert.ok(expected.get(own)?.includes(other), `${own}, but the peer: ${other}`)
    })
    fc.assert(property, { numRuns: 10_000, seed: 78 })
    assert.deepEqual([...seen].sort(), [...expected.keys()].sort())
  })
})

describe('5.5 UUIDs during a resync', () => {
  const equalButBit0 = (one: Uuids, other: Uuids): void => {
    assert.ok(sameGeneration(one.current, other.current), 'CURRENT')
    assert.deepEqual(one, { ...other, current: one.current })
  }

  it('source: (C, B, 0, 0), then (C, B + 2^48, B, 0), then (C, 0, B + 2^48, B), as observed', () => {
    const during = startUuidsSource(uuids(C | 1n, B | 1n), 0x77n)
    assert.deepEqual(during, uuids(C | 1n, (B | 1n) + OFFSET, B | 1n, 0n))
    assert.deepEqual(finishUuidsSource(during), uuids(C | 1n, 0n, (B | 1n) + OFFSET, B | 1n))
  })

  it('source: a random sync UUID without a base, and for the base 4', () => {
    assert.deepEqual(startUuidsSource(uuids(C, 0n, D, E), 0x77n), uuids(C, 0x77n, D, E))
    assert.deepEqual(startUuidsSource(uuids(C, 4n, D, E), 0x77n), uuids(C, 0x77n, 4n, D))
    assert.deepEqual(startUuidsSource(uuids(C, 5n, D, E), 0x77n), uuids(C, 5n + OFFSET, 5n, D))
  })

  it('source: the offset is added modulo 2^64', () => {
    assert.equal(startUuidsSource(uuids(C, 0xffff_0000_0000_00b0n), 0x77n).bitmap, 0xb0n)
  })

  it('target: CURRENT is the sync UUID, BITMAP 0, the rest stays', () => {
    assert.deepEqual(startUuidsTarget(uuids(A, B, C, D), 0x99n), uuids(0x99n, 0n, C, D))
  })

  it('both end with the same C, 0, S and old base', () => {
    const before = { source: uuids(C | 1n, B, D, E), target: uuids(B, 0n, F, F) }
    const source = startUuidsSource(before.source, 0x77n)
    const target = startUuidsTarget(before.target, source.bitmap)
    const finished = finishUuidsTarget(target, before.source, false)
    assert.deepEqual(finished, uuids(C, 0n, B + OFFSET, B))
    equalButBit0(finished, finishUuidsSource(source))
    assert.equal(finishUuidsTarget(target, before.source, true).current, C | 1n)
  })

  it('without a base, the former HIST1 ends in HIST2', () => {
    const source = startUuidsSource(uuids(C, 0n, D, E), 0x77n)
    const target = finishUuidsTarget(startUuidsTarget(uuids(4n), source.bitmap), uuids(C, 0n, D, E), false)
    assert.deepEqual(target, uuids(C, 0n, 0x77n, D))
    assert.deepEqual(target, finishUuidsSource(source))
  })

  it('takes nothing but UUIDs from the peer', () => {
    assert.deepEqual(finishUuidsTarget(uuids(A), view(C, B, D, E, 9), false), uuids(C, 0n, A, B))
  })

  // Two disks in sync; a stays Primary when the link is lost, and they meet again at different points of the resync.
  const alone = newCurrent(uuids(A | 1n, 0n, D, E), 0xcafe_0000n, true)
  const behind = uuids(A, 0n, D, E)
  const meet = (self: Uuids, peer: Uuids, apv = 101): Comparison =>
    compareGenerations(compareInput({ ...view(0n), ...self }, { ...view(0n), ...peer }, { apv }))
  const brief = ({ rule, result }: Comparison): string => `${rule}: ${result}`

  it('life: loss, return, resync, equal', () => {
    assert.equal(brief(meet(alone, behind)), '70: 1')
    assert.equal(brief(meet(behind, alone)), '50: -1')
    const source = startUuidsSource(alone, 1n)
    const target = startUuidsTarget(behind, source.bitmap)
    const ends = [finishUuidsSource(source), finishUuidsTarget(target, alone, false)] as const
    equalButBit0(...ends)
    assert.equal(brief(meet(...ends)), '40: 0')
  })

  it('life: the link is lost again during the resync', () => {
    const source = startUuidsSource(alone, 1n)
    const target = startUuidsTarget(behind, source.bitmap)
    assert.equal(brief(meet(source, target)), '70: 1')
    const again = startUuidsSource(source, 1n)
    const ends = [
      finishUuidsSource(again),
      finishUuidsTarget(startUuidsTarget(target, again.bitmap), source, false),
    ] as const
    equalButBit0(...ends)
  })

  it('life: the P_SYNC_UUID is lost (71 and 51), then a whole resync', () => {
    const started = startUuidsSource(alone, 1n)
    const own = meet(started, behind)
    const other = meet(behind, started)
    assert.deepEqual([brief(own), brief(other)], ['71: 1', '51: -1'])
    assert.ok(own.self !== undefined && other.peer !== undefined)
    const source = startUuidsSource(own.self, 1n)
    const ends = [
      finishUuidsSource(source),
      finishUuidsTarget(startUuidsTarget(behind, source.bitmap), other.peer, false),
    ] as const
    equalButBit0(...ends)
  })

  it('life: the end of the resync reaches the target only (34 and 35)', () => {
    const source = startUuidsSource(alone, 1n)
    const target = finishUuidsTarget(startUuidsTarget(behind, source.bitmap), alone, false)
    const own = meet(source, target)
    assert.deepEqual([brief(own), brief(meet(target, source))], ['34: 1', '35: -1'])
    assert.deepEqual(own.self, finishUuidsSource(source))
  })

  it('life: both go on alone', () => {
    const other = newCurrent(behind, 0xbeef_0000n, true)
    assert.equal(brief(meet(alone, other)), '90: 100')
    assert.equal(brief(meet(other, alone)), '90: 100')
  })
})
