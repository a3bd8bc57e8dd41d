// Goal: states follow the tables of sections 9.4 to 9.8 row by row, in their order.
// Method: one test for each rule, with the nearest state on the other side of it; whole-space sweeps for what must hold
// whatever the input; state words of section 11 as examples.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import * as K from '../wire/drbd/constants.ts'
import { decodeStateWord, encodeStateWord, type StateWord } from '../wire/drbd/state-word.ts'
import {
  driverErrorText,
  FENCING_DONT_CARE,
  FENCING_RESOURCE_ONLY,
  FENCING_STONITH,
  hardTransition,
  needsPeerConsent,
  REQUEST_DETACH,
  REQUEST_DISCONNECT,
  REQUEST_DISCONNECT_OUTDATE_PEER,
  REQUEST_DISCONNECT_OUTDATE_SELF,
  REQUEST_INVALIDATE,
  REQUEST_INVALIDATE_REMOTE,
  REQUEST_PRIMARY,
  REQUEST_PRIMARY_FORCED,
  REQUEST_REMOVE_VOLUME,
  REQUEST_VERIFY,
  type SanitizeContext,
  type StateChange,
  sanitize,
  stateChangeText,
  type TransitionContext,
  translatePeerView,
  type ValidityContext,
  validate,
  validateChange,
  validateTransition,
} from './state-rules.ts'

type Patch = Partial<StateWord>

/** Secondary/Secondary, Connected, UpToDate/UpToDate, but for `patch`. */
function state(patch: Patch = {}): StateWord {
  return {
    role: K.R_SECONDARY,
    peer: K.R_SECONDARY,
    conn: K.C_CONNECTED,
    disk: K.D_UPTODATE,
    pdsk: K.D_UPTODATE,
    susp: false,
    aftrIsp: false,
    peerIsp: false,
    userIsp: false,
    suspNod: false,
    suspFen: false,
    ...patch,
  }
}

const PRIMARY = { role: K.R_PRIMARY }
/** A state that no volume starts from: what is compared with it counts as new. */
const BEFORE = state()

const ALL_CONNS = Array.from({ length: 24 }, (_, conn) => conn)
const ALL_DISKS = Array.from({ length: 9 }, (_, disk) => disk)
const OWN_DISKS = ALL_DISKS.filter((disk) => disk !== K.D_UNKNOWN)

function sanitized(next: Patch, more: Partial<SanitizeContext> = {}, previous: StateWord = BEFORE): StateWord {
  const context = {
    fencing: FENCING_DONT_CARE,
    onNoDataSuspend: false,
    attachDisk: K.D_UPTODATE,
    exposedMatches: true,
    peerConnected: true,
  }
  return sanitize(state(next), previous, { ...context, ...more })
}

/** Only the fields of `expected` are compared. */
function assertFields(actual: StateWord, expected: Patch): void {
  assert.deepEqual({ ...actual, ...expected }, actual)
}

describe('9.4 sanitising', () => {
  it('leaves a healthy state alone and its inputs untouched', () => {
    const next = Object.freeze(state(PRIMARY))
    const context = {
      fencing: FENCING_STONITH,
      onNoDataSuspend: true,
      attachDisk: 0,
      exposedMatches: false,
      peerConnected: true,
    }
    assert.deepEqual(sanitize(next, Object.freeze(state()), context), next)
  })

  it('rule 1: below Connected the peer is unknown, and its disk Inconsistent, Outdated or DUnknown', () => {
    const lost = sanitized({ conn: K.C_WF_REPORT_PARAMS, peer: K.R_PRIMARY, peerIsp: true })
    assertFields(lost, { peer: K.R_UNKNOWN, peerIsp: false, pdsk: K.D_UNKNOWN })
    const expected = new Map([
      [K.D_INCONSISTENT, K.D_INCONSISTENT],
      [K.D_OUTDATED, K.D_OUTDATED],
    ])
    for (const pdsk of ALL_DISKS) {
      const { pdsk: found } = sanitized({ conn: K.C_WF_CONNECTION, pdsk })
      assert.equal(found, expected.get(pdsk) ?? K.D_UNKNOWN, K.diskStateName(pdsk))
    }
    assertFields(sanitized({ peer: K.R_PRIMARY, peerIsp: true }), { peer: K.R_PRIMARY, peerIsp: true })
  })

  it('rule 2: StandAlone, Diskless and Secondary drops aftr_isp', () => {
    const idle = { conn: K.C_STANDALONE, disk: K.D_DISKLESS, aftrIsp: true }
    assert.equal(sanitized(idle).aftrIsp, false)
    assert.equal(sanitized({ ...idle, role: K.R_PRIMARY }).aftrIsp, true)
    assert.equal(sanitized({ ...idle, disk: K.D_OUTDATED }).aftrIsp, true)
    assert.equal(sanitized({ ...idle, conn: K.C_UNCONNECTED }).aftrIsp, true)
  })

  it('rule 3: nothing runs without both disks', () => {
    for (const conn of ALL_CONNS.filter((c) => c > K.C_CONNECTED)) {
      assert.equal(sanitized({ conn, disk: K.D_FAILED }).conn, K.C_CONNECTED)
      assert.equal(sanitized({ conn, pdsk: K.D_FAILED }).conn, K.C_CONNECTED)
      const paused = conn === K.C_PAUSED_SYNC_S || conn === K.C_PAUSED_SYNC_T
      assert.equal(sanitized({ conn, disk: K.D_NEGOTIATING, pdsk: K.D_NEGOTIATING, userIsp: paused }).conn, conn)
    }
    assertFields(sanitized({ conn: K.C_SYNC_SOURCE, pdsk: K.D_DISKLESS }), { disk: K.D_UPTODATE, pdsk: K.D_DISKLESS })
  })

  it('rule 4: a disk that waited for the lost peer falls back to its state at attach, or is given up', () => {
    const attaching = { conn: K.C_WF_CONNECTION, disk: K.D_NEGOTIATING }
    const attachDisk = K.D_CONSISTENT
    assert.equal(sanitized(attaching, { attachDisk, exposedMatches: true, peerConnected: true }).disk, K.D_CONSISTENT)
    assert.equal(sanitized(attaching, { attachDisk, exposedMatches: false, peerConnected: true }).disk, K.D_DISKLESS)
    assert.equal(
      sanitized({ disk: K.D_NEGOTIATING }, { exposedMatches: false, peerConnected: true }).disk,
      K.D_NEGOTIATING,
    )
  })

  it('rule 5: connected disks without a resync are UpToDate, not Consistent or Outdated', () => {
    for (const disk of [K.D_CONSISTENT, K.D_OUTDATED]) {
      assert.equal(sanitized({ disk }).disk, K.D_UPTODATE)
      assert.equal(sanitized({ pdsk: disk }).pdsk, K.D_UPTODATE)
      assert.equal(sanitized({ conn: K.C_WF_REPORT_PARAMS, disk }).disk, disk)
    }
    assert.equal(sanitized({ disk: K.D_INCONSISTENT }).disk, K.D_INCONSISTENT)
    // Ours: for a host without a disk it means that its own, lost one is newer.
    assert.equal(sanitized({ disk: K.D_DISKLESS, pdsk: K.D_OUTDATED }).pdsk, K.D_OUTDATED)
    const besideDiskless = { disk: K.D_OUTDATED, pdsk: K.D_DISKLESS }
    assert.equal(sanitized(besideDiskless).disk, K.D_OUTDATED)
    assert.equal(sanitized({ ...besideDiskless, peer: K.R_PRIMARY }).disk, K.D_OUTDATED)
    // Ours: a Secondary that attaches its disk may find newer data on it.
    const besideAttach = { disk: K.D_CONSISTENT, pdsk: K.D_ATTACHING }
    assert.equal(sanitized(besideAttach).disk, K.D_CONSISTENT)
    assert.equal(sanitized({ ...besideAttach, pdsk: K.D_DISKLESS }).disk, K.D_UPTODATE)
    for (const disk of [K.D_ATTACHING, K.D_NEGOTIATING])
      assert.equal(sanitized({ disk, pdsk: K.D_CONSISTENT }).pdsk, K.D_CONSISTENT)
    assert.equal(sanitized({ disk: K.D_DISKLESS, pdsk: K.D_CONSISTENT }).pdsk, K.D_UPTODATE)
    // Consistent goes through UpToDate and is then clamped; from Ahead on it is clamped as it is.
    assert.equal(sanitized({ conn: K.C_WF_BITMAP_S, pdsk: K.D_OUTDATED }).pdsk, K.D_CONSISTENT)
    assert.equal(sanitized({ conn: K.C_AHEAD, pdsk: K.D_OUTDATED }).pdsk, K.D_OUTDATED)
    assert.equal(sanitized({ conn: K.C_BEHIND, disk: K.D_OUTDATED }).disk, K.D_OUTDATED)
  })

  const CLAMPS: readonly [readonly number[], readonly [number, number], readonly [number, number]][] = [
    [
      [K.C_WF_BITMAP_T, K.C_PAUSED_SYNC_T, K.C_STARTING_SYNC_T, K.C_WF_SYNC_UUID, K.C_BEHIND],
      [K.D_INCONSISTENT, K.D_OUTDATED],
      [K.D_UPTODATE, K.D_UPTODATE],
    ],
    [
      [K.C_VERIFY_S, K.C_VERIFY_T],
      [K.D_UPTODATE, K.D_UPTODATE],
      [K.D_UPTODATE, K.D_UPTODATE],
    ],
    [
      [K.C_WF_BITMAP_S, K.C_PAUSED_SYNC_S, K.C_STARTING_SYNC_S, K.C_AHEAD],
      [K.D_UPTODATE, K.D_UPTODATE],
      [K.D_INCONSISTENT, K.D_CONSISTENT],
    ],
    [[K.C_SYNC_TARGET], [K.D_INCONSISTENT, K.D_INCONSISTENT], [K.D_UPTODATE, K.D_UPTODATE]],
    [[K.C_SYNC_SOURCE], [K.D_UPTODATE, K.D_UPTODATE], [K.D_INCONSISTENT, K.D_INCONSISTENT]],
    [[K.C_CONNECTED], [K.D_DISKLESS, K.D_UPTODATE], [K.D_DISKLESS, K.D_UPTODATE]],
  ]

  it('rule 6: the disks are clamped by the connection state', () => {
    for (const [conns, disks, pdsks] of CLAMPS) {
      for (const conn of conns) {
        // Paused states stay so only with a pause flag; both ends of each range are reached.
        const seen = { disk: new Set<number>(), pdsk: new Set<number>() }
        for (const disk of OWN_DISKS) {
          for (const pdsk of OWN_DISKS) {
            const found = sanitized({ conn, disk, pdsk, userIsp: conn >= K.C_PAUSED_SYNC_S })
            if (found.conn !== conn) continue
            seen.disk.add(found.disk)
            seen.pdsk.add(found.pdsk)
          }
        }
        assert.deepEqual([Math.min(...seen.disk), Math.max(...seen.disk)], disks, K.connectionStateName(conn))
        assert.deepEqual([Math.min(...seen.pdsk), Math.max(...seen.pdsk)], pdsks, K.connectionStateName(conn))
      }
    }
    assert.equal(CLAMPS.flatMap(([conns]) => conns).length, ALL_CONNS.filter((conn) => conn >= K.C_CONNECTED).length)
  })

  it('rule 7: fencing stonith freezes a Primary that has just lost a peer it cannot be sure of', () => {
    const stonith = { fencing: FENCING_STONITH }
    const lost = { ...PRIMARY, conn: K.C_NETWORK_FAILURE }
    assert.equal(sanitized(lost, stonith).suspFen, true)
    assert.equal(sanitized(lost, { fencing: FENCING_RESOURCE_ONLY }).suspFen, false)
    assert.equal(sanitized({ ...lost, role: K.R_SECONDARY }, stonith).suspFen, false)
    assert.equal(sanitized({ ...lost, pdsk: K.D_OUTDATED }, stonith).suspFen, false)
    assert.equal(sanitized({ ...lost, conn: K.C_CONNECTED }, stonith).suspFen, false)
    // Only when it is new: a thawed Primary is not frozen again by the next change.
    const already = state({ ...lost, pdsk: K.D_UNKNOWN })
    assert.equal(sanitized(lost, stonith, already).suspFen, false)
    assert.equal(sanitized({ ...lost, suspFen: true }, stonith, already).suspFen, true)
    assert.equal(sanitized(lost, stonith, state({ ...lost, pdsk: K.D_OUTDATED })).suspFen, true)
  })

  it('rule 8: on-no-data = suspend freezes a Primary that has just lost its last good data', () => {
    const suspend = { onNoDataSuspend: true }
    const lost = { ...PRIMARY, conn: K.C_WF_CONNECTION, disk: K.D_DISKLESS }
    assert.equal(sanitized(lost, suspend).suspNod, true)
    assert.equal(sanitized(lost).suspNod, false)
    assert.equal(sanitized({ ...lost, role: K.R_SECONDARY }, suspend).suspNod, false)
    assert.equal(sanitized({ ...lost, disk: K.D_UPTODATE }, suspend).suspNod, false)
    assert.equal(sanitized({ ...lost, conn: K.C_CONNECTED }, suspend).suspNod, false)
    assert.equal(sanitized(lost, suspend, sanitized(lost)).suspNod, false)
  })

  it('rule 9: pause flags choose between Sync and PausedSync', () => {
    const pairs = [
      [K.C_SYNC_SOURCE, K.C_PAUSED_SYNC_S],
      [K.C_SYNC_TARGET, K.C_PAUSED_SYNC_T],
    ] as const
    for (const [runs, paused] of pairs) {
      const disks = { disk: K.D_INCONSISTENT, pdsk: K.D_INCONSISTENT }
      for (const conn of [runs, paused]) {
        for (const flag of [{ aftrIsp: true }, { peerIsp: true }, { userIsp: true }]) {
          assert.equal(sanitized({ conn, ...disks, ...flag }).conn, paused)
        }
        assert.equal(sanitized({ conn, ...disks, susp: true }).conn, runs)
      }
    }
    assert.equal(sanitized({ conn: K.C_WF_BITMAP_S, userIsp: true }).conn, K.C_WF_BITMAP_S)
    assert.equal(sanitized({ conn: K.C_VERIFY_S, userIsp: true }).conn, K.C_VERIFY_S)
  })

  it('never lets an operation run on disks that do not allow it, whatever the input', () => {
    for (const conn of ALL_CONNS) {
      for (const disk of OWN_DISKS) {
        for (const pdsk of ALL_DISKS) {
          const found = sanitized({ conn, disk, pdsk })
          if (found.conn <= K.C_CONNECTED) continue
          assert.ok(found.disk === K.D_UPTODATE || found.pdsk === K.D_UPTODATE)
          assert.ok(found.disk >= K.D_INCONSISTENT && found.pdsk >= K.D_INCONSISTENT)
        }
      }
    }
  })

  it('gives the words of section 11', () => {
    const after = (next: Patch): number => encodeStateWord(sanitized(next))
    const target = { peer: K.R_PRIMARY, conn: K.C_WF_BITMAP_T }
    assert.equal(after(target), 0x00010ae6)
    assert.equal(after({ ...PRIMARY, conn: K.C_WF_BITMAP_S }), 0x0000f0d9)
    assert.equal(after({ ...target, conn: K.C_SYNC_TARGET }), 0x00010916)
    assert.equal(after({ ...PRIMARY, disk: K.D_CONSISTENT }), 0x000110a9)
    assert.equal(after({ peer: K.R_PRIMARY, pdsk: K.D_OUTDATED }), 0x000110a6)
    assert.equal(after({ conn: K.C_WF_CONNECTION }), 0x0000d082)
  })
})

const VALIDITY: ValidityContext = {
  twoPrimaries: false,
  anyPeerPrimary: false,
  deviceInUse: false,
  fencing: FENCING_DONT_CARE,
  verifyAlg: 'crc32c',
  apv: 101,
}

describe('9.5 validity', () => {
  const expectCode = (code: number, patch: Patch, more: Partial<ValidityContext> = {}): void =>
    assert.equal(validate(state(patch), { ...VALIDITY, ...more }), code)
  const alone = { ...PRIMARY, conn: K.C_WF_CONNECTION, peer: K.R_UNKNOWN }

  it('ordinary states are valid', () => {
    for (const patch of [{}, PRIMARY, { peer: K.R_PRIMARY }, alone]) expectCode(1, patch)
    expectCode(1, { conn: K.C_SYNC_TARGET, disk: K.D_INCONSISTENT, ...PRIMARY })
    expectCode(1, { conn: K.C_STANDALONE, disk: K.D_DISKLESS, pdsk: K.D_UNKNOWN })
  })

  it('1: two Primaries', () => {
    const both = { ...PRIMARY, peer: K.R_PRIMARY }
    expectCode(-1, both)
    expectCode(-1, both, { anyPeerPrimary: true })
    expectCode(1, both, { twoPrimaries: true, anyPeerPrimary: true })
  })

  it('2: another volume is Primary on the peer', () => {
    expectCode(-20, PRIMARY, { anyPeerPrimary: true })
    expectCode(1, {}, { anyPeerPrimary: true })
    expectCode(-20, { ...alone, disk: K.D_OUTDATED }, { anyPeerPrimary: true })
  })

  it('3: Secondary, but in use', () => {
    expectCode(-12, {}, { deviceInUse: true })
    expectCode(1, PRIMARY, { deviceInUse: true })
    expectCode(-12, { conn: K.C_SYNC_TARGET, disk: K.D_DISKLESS }, { deviceInUse: true })
  })

  it('4: Primary alone without UpToDate data', () => {
    expectCode(-2, { ...alone, disk: K.D_CONSISTENT, pdsk: K.D_UPTODATE })
    expectCode(-2, { ...alone, disk: K.D_CONSISTENT }, { fencing: FENCING_RESOURCE_ONLY })
  })

  it('5: fencing, Primary alone, and the peer may go on', () => {
    const fencing = FENCING_RESOURCE_ONLY
    expectCode(-7, { ...alone, pdsk: K.D_UNKNOWN }, { fencing })
    expectCode(-7, { ...alone, pdsk: K.D_UNKNOWN }, { fencing: FENCING_STONITH })
    expectCode(1, { ...alone, pdsk: K.D_UNKNOWN })
    expectCode(1, { ...alone, pdsk: K.D_OUTDATED }, { fencing })
    expectCode(1, { ...alone, role: K.R_SECONDARY, pdsk: K.D_UNKNOWN }, { fencing })
    expectCode(1, PRIMARY, { fencing })
  })

  it('6: Primary without any disk to use; before 7', () => {
    expectCode(-2, { ...PRIMARY, conn: K.C_SYNC_TARGET, disk: K.D_DISKLESS, pdsk: K.D_INCONSISTENT })
    expectCode(-2, { ...PRIMARY, conn: K.C_SYNC_TARGET, disk: K.D_INCONSISTENT, pdsk: K.D_DISKLESS })
    expectCode(-4, { ...PRIMARY, conn: K.C_SYNC_TARGET, disk: K.D_DISKLESS, pdsk: K.D_OUTDATED })
    expectCode(1, { ...PRIMARY, conn: K.C_SYNC_SOURCE, pdsk: K.D_INCONSISTENT })
  })

  it('7, 8: no resync without own disk, without the disk of the peer', () => {
    expectCode(-4, { conn: K.C_WF_BITMAP_T, disk: K.D_NEGOTIATING })
    expectCode(-5, { conn: K.C_WF_BITMAP_S, pdsk: K.D_NEGOTIATING })
    expectCode(-4, { conn: K.C_WF_BITMAP_S, disk: K.D_DISKLESS, pdsk: K.D_DISKLESS })
    expectCode(1, { disk: K.D_DISKLESS })
    expectCode(1, { pdsk: K.D_DISKLESS })
  })

  it('9: no resync without UpToDate data', () => {
    expectCode(-2, { conn: K.C_WF_BITMAP_S, disk: K.D_OUTDATED, pdsk: K.D_INCONSISTENT })
    expectCode(1, { disk: K.D_INCONSISTENT, pdsk: K.D_INCONSISTENT })
  })

  it('10: no Outdated disk while Connected or source', () => {
    for (const conn of [K.C_CONNECTED, K.C_WF_BITMAP_S, K.C_SYNC_SOURCE, K.C_PAUSED_SYNC_S]) {
      expectCode(-6, { conn, disk: K.D_OUTDATED })
    }
    expectCode(1, { conn: K.C_WF_BITMAP_T, disk: K.D_OUTDATED })
    expectCode(1, { conn: K.C_WF_CONNECTION, disk: K.D_OUTDATED })
    expectCode(-6, { ...PRIMARY, disk: K.D_OUTDATED, pdsk: K.D_OUTDATED })
  })

  it('11, 12: verify needs an algorithm and APV 88', () => {
    for (const conn of [K.C_VERIFY_S, K.C_VERIFY_T]) {
      expectCode(-14, { conn }, { verifyAlg: '' })
      expectCode(-14, { conn }, { verifyAlg: '', apv: 87 })
      expectCode(-17, { conn }, { apv: 87 })
      expectCode(1, { conn }, { apv: 88 })
    }
    expectCode(1, {}, { verifyAlg: '', apv: 87 })
  })

  it('13: a connected Primary needs UpToDate data somewhere', () => {
    expectCode(-2, { ...PRIMARY, disk: K.D_CONSISTENT, pdsk: K.D_CONSISTENT })
    expectCode(1, { ...PRIMARY, disk: K.D_DISKLESS })
    expectCode(1, { disk: K.D_CONSISTENT, pdsk: K.D_CONSISTENT })
  })

  it('14, 15: the disk of a connected peer is known', () => {
    for (const conn of [K.C_STARTING_SYNC_S, K.C_STARTING_SYNC_T]) expectCode(-15, { conn, pdsk: K.D_UNKNOWN })
    expectCode(-6, { pdsk: K.D_UNKNOWN })
    expectCode(-6, { conn: K.C_WF_BITMAP_S, pdsk: K.D_UNKNOWN })
    expectCode(1, { conn: K.C_WF_REPORT_PARAMS, pdsk: K.D_UNKNOWN })
  })
})

describe('9.5 transitions of requests', () => {
  const expectCode = (code: number, from: Patch, to: Patch, more: Partial<TransitionContext> = {}): void =>
    assert.equal(validateTransition(state(from), state({ ...from, ...to }), { handshakeWindow: false, ...more }), code)

  it('ordinary changes are allowed', () => {
    expectCode(1, {}, PRIMARY)
    expectCode(1, {}, { conn: K.C_STARTING_SYNC_T })
    expectCode(1, {}, { conn: K.C_VERIFY_S })
    expectCode(1, {}, { conn: K.C_DISCONNECTING, pdsk: K.D_OUTDATED })
    expectCode(1, { conn: K.C_STANDALONE }, { conn: K.C_UNCONNECTED })
  })

  it('> Connected -> StartingSyncS/T: -8', () => {
    for (const conn of [K.C_STARTING_SYNC_S, K.C_STARTING_SYNC_T]) {
      expectCode(-8, { conn: K.C_SYNC_SOURCE }, { conn })
      expectCode(1, { conn: K.C_CONNECTED }, { conn })
    }
  })

  it('StandAlone -> Disconnecting: -9', () => expectCode(-9, { conn: K.C_STANDALONE }, { conn: K.C_DISCONNECTING }))

  it('disk Diskless -> > Attaching: -11', () => {
    expectCode(-11, { disk: K.D_DISKLESS }, { disk: K.D_UPTODATE })
    expectCode(-11, { disk: K.D_DISKLESS }, { disk: K.D_FAILED })
    expectCode(1, { disk: K.D_DISKLESS }, { disk: K.D_ATTACHING })
  })

  it('< Unconnected -> WFConnection: -13', () => {
    expectCode(-13, { conn: K.C_STANDALONE }, { conn: K.C_WF_CONNECTION })
    expectCode(-13, { conn: K.C_DISCONNECTING }, { conn: K.C_WF_CONNECTION })
    expectCode(1, { conn: K.C_UNCONNECTED }, { conn: K.C_WF_CONNECTION })
  })

  it('disk < Outdated, except Attaching -> Outdated: -16', () => {
    for (const disk of [K.D_FAILED, K.D_NEGOTIATING, K.D_INCONSISTENT])
      expectCode(-16, { disk }, { disk: K.D_OUTDATED })
    expectCode(-16, { disk: K.D_DISKLESS }, { disk: K.D_OUTDATED }) // and -11 before it: the last one wins
    expectCode(1, { disk: K.D_ATTACHING }, { disk: K.D_OUTDATED })
    expectCode(1, { disk: K.D_UPTODATE }, { disk: K.D_OUTDATED })
  })

  it('Unconnected -> Disconnecting: -18', () => {
    expectCode(-18, { conn: K.C_UNCONNECTED }, { conn: K.C_DISCONNECTING })
    expectCode(1, { conn: K.C_WF_CONNECTION }, { conn: K.C_DISCONNECTING })
  })

  it('handshake window: nothing but its own steps, -18', () => {
    const handshakeWindow = true
    expectCode(-18, { conn: K.C_WF_REPORT_PARAMS }, PRIMARY, { handshakeWindow })
    expectCode(-18, { conn: K.C_WF_CONNECTION }, { conn: K.C_DISCONNECTING }, { handshakeWindow })
    expectCode(-18, {}, { disk: K.D_FAILED }, { handshakeWindow })
    expectCode(1, { conn: K.C_WF_CONNECTION }, { conn: K.C_WF_REPORT_PARAMS }, { handshakeWindow })
    for (const conn of [K.C_CONNECTED, K.C_WF_BITMAP_S, K.C_WF_BITMAP_T]) {
      expectCode(1, { conn: K.C_WF_REPORT_PARAMS }, { conn }, { handshakeWindow })
    }
  })

  it('promotion while the own data is not settled: -18', () => {
    const target = { conn: K.C_WF_BITMAP_T, disk: K.D_OUTDATED }
    expectCode(-18, target, PRIMARY)
    expectCode(-18, { ...target, conn: K.C_WF_SYNC_UUID }, PRIMARY)
    expectCode(1, { ...target, conn: K.C_SYNC_TARGET }, PRIMARY)
    expectCode(-18, { ...target, conn: K.C_SYNC_TARGET }, { ...PRIMARY, conn: K.C_PAUSED_SYNC_T })
    expectCode(1, { ...target, disk: K.D_UPTODATE }, PRIMARY)
    expectCode(1, { conn: K.C_CONNECTED, disk: K.D_DISKLESS }, PRIMARY)
    expectCode(1, { ...target, pdsk: K.D_CONSISTENT }, PRIMARY)
    // The wanted state counts: by force the own disk becomes the good one.
    expectCode(1, target, { ...PRIMARY, disk: K.D_UPTODATE })
    expectCode(-18, { ...target, pdsk: K.D_CONSISTENT }, { ...PRIMARY, pdsk: K.D_UPTODATE })
    expectCode(1, { ...target, ...PRIMARY }, { userIsp: true })
    expectCode(1, target, { userIsp: true })
  })

  it('< Connected -> VerifyS/T: -15; > Connected -> VerifyS/T: -8', () => {
    for (const conn of [K.C_VERIFY_S, K.C_VERIFY_T]) {
      expectCode(-15, { conn: K.C_WF_REPORT_PARAMS }, { conn })
      expectCode(-8, { conn: K.C_SYNC_SOURCE }, { conn })
      expectCode(-8, { conn: conn === K.C_VERIFY_S ? K.C_VERIFY_T : K.C_VERIFY_S }, { conn })
      expectCode(1, { conn }, { conn, userIsp: true })
    }
  })

  it('< Connected -> StartingSyncS/T: -15', () => {
    for (const conn of [K.C_STARTING_SYNC_S, K.C_STARTING_SYNC_T])
      expectCode(-15, { conn: K.C_WF_REPORT_PARAMS }, { conn })
  })

  it('< WFReportParams -> SyncSource/SyncTarget: -15', () => {
    for (const conn of [K.C_SYNC_SOURCE, K.C_SYNC_TARGET]) {
      expectCode(-15, { conn: K.C_WF_CONNECTION }, { conn })
      expectCode(1, { conn: K.C_WF_REPORT_PARAMS }, { conn })
    }
  })

  it('outdating the peer in a disconnect without a connection: -21, the last rule', () => {
    const to = { conn: K.C_DISCONNECTING, pdsk: K.D_OUTDATED }
    expectCode(-21, { conn: K.C_WF_CONNECTION, pdsk: K.D_UNKNOWN }, to)
    expectCode(-21, { conn: K.C_UNCONNECTED, pdsk: K.D_UNKNOWN }, to) // and -18 before it: the last one wins
    expectCode(1, { conn: K.C_WF_CONNECTION, pdsk: K.D_OUTDATED }, to)
    expectCode(1, { conn: K.C_WF_CONNECTION, pdsk: K.D_UNKNOWN }, { conn: K.C_DISCONNECTING })
  })
})

describe('9.5 the whole check of a request', () => {
  const context = { ...VALIDITY, handshakeWindow: false }

  it('refuses an invalid state before it looks at the transition', () => {
    const from = state({ conn: K.C_SYNC_SOURCE, pdsk: K.D_INCONSISTENT })
    assert.equal(validateChange(from, { ...from, conn: K.C_VERIFY_S }, { ...context, verifyAlg: '' }), -14)
    assert.equal(validateChange(from, { ...from, conn: K.C_VERIFY_S }, context), -8)
    assert.equal(validateChange(state(), state(PRIMARY), context), 1)
  })

  it('does not refuse what was broken for the same reason already', () => {
    const broken = state({ ...PRIMARY, peer: K.R_PRIMARY })
    assert.equal(validateChange(broken, { ...broken, userIsp: true }, context), 1)
    assert.equal(validateChange(broken, { ...broken, role: K.R_SECONDARY }, { ...context, deviceInUse: true }), -12)
    assert.equal(validateChange(broken, { ...broken, conn: K.C_STARTING_SYNC_T }, context), 1)
    assert.equal(
      validateChange({ ...broken, conn: K.C_SYNC_SOURCE }, { ...broken, conn: K.C_STARTING_SYNC_T }, context),
      -8,
    )
  })
})

describe('9.5 hard rules', () => {
  const expectCode = (code: number, from: Patch, to: Patch): void =>
    assert.equal(hardTransition(state(from), state({ ...from, ...to })), code)
  const LOST = [3, 4, 5, 6, 7]

  it('StandAlone -> Disconnecting -9, -> anything but Unconnected -15', () => {
    for (const conn of ALL_CONNS) {
      const code = conn === K.C_DISCONNECTING ? -9 : conn === K.C_UNCONNECTED || conn === K.C_STANDALONE ? 1 : -15
      expectCode(code, { conn: K.C_STANDALONE }, { conn })
    }
  })

  it('< WFReportParams -> >= Connected: -15', () => {
    for (const from of ALL_CONNS.filter((conn) => conn < K.C_WF_REPORT_PARAMS)) {
      for (const to of ALL_CONNS.filter((conn) => conn >= K.C_CONNECTED)) expectCode(-15, { conn: from }, { conn: to })
    }
    expectCode(1, { conn: K.C_WF_REPORT_PARAMS }, { conn: K.C_CONNECTED })
  })

  it('Timeout..TearDown -> anything but Unconnected and Disconnecting: -18', () => {
    for (const from of LOST) {
      for (const to of ALL_CONNS.filter((conn) => conn < K.C_CONNECTED)) {
        const allowed = to === from || to === K.C_UNCONNECTED || to === K.C_DISCONNECTING
        expectCode(allowed ? 1 : -18, { conn: from }, { conn: to })
      }
    }
    expectCode(1, { conn: K.C_WF_CONNECTION }, { conn: K.C_WF_REPORT_PARAMS })
  })

  it('Disconnecting -> anything but StandAlone: -18', () => {
    for (const to of ALL_CONNS.filter((conn) => conn < K.C_CONNECTED)) {
      const allowed = to === K.C_STANDALONE || to === K.C_DISCONNECTING
      expectCode(allowed ? 1 : -18, { conn: K.C_DISCONNECTING }, { conn: to })
    }
  })

  it('disk Diskless -> Failed: -11', () => {
    expectCode(-11, { disk: K.D_DISKLESS }, { disk: K.D_FAILED })
    expectCode(1, { disk: K.D_ATTACHING }, { disk: K.D_FAILED })
    expectCode(1, { disk: K.D_DISKLESS }, { disk: K.D_ATTACHING })
  })

  it('a change that leaves the connection alone is free of its rules', () => {
    for (const conn of ALL_CONNS) expectCode(1, { conn }, PRIMARY)
  })
})

const translateWord = (word: number): number => encodeStateWord(translatePeerView(decodeStateWord(word)))

describe("9.6 the peer's view", () => {
  it('maps the connection state', () => {
    const expected = new Map([
      [1, 7],
      [9, 9],
      [10, 10],
      [11, 12],
      [12, 11],
      [18, 19],
      [31, 31],
    ])
    for (let conn = 0; conn < 32; conn++) {
      assert.equal(translatePeerView(state({ conn })).conn, expected.get(conn) ?? 0, `conn ${conn}`)
    }
  })

  it('swaps roles and disks, joins the pause flags, keeps the others', () => {
    const word = state({ role: 1, peer: 2, disk: 4, pdsk: 8, susp: true, suspNod: true, suspFen: true, peerIsp: true })
    const expected = { ...word, role: 2, peer: 1, disk: 8, pdsk: 4, peerIsp: false }
    assert.deepEqual(translatePeerView(word), expected)
    assert.deepEqual(translatePeerView({ ...word, aftrIsp: true }), { ...expected, aftrIsp: true, peerIsp: true })
    assert.deepEqual(translatePeerView({ ...word, userIsp: true }), { ...expected, userIsp: true, peerIsp: true })
  })

  it('translates masks and values of the requests of 9.7', () => {
    const both = ({ mask, value }: StateChange): number[] => [translateWord(mask), translateWord(value)]
    assert.deepEqual(both(REQUEST_PRIMARY), [0x0000000c, 0x00000004])
    assert.deepEqual(both(REQUEST_PRIMARY_FORCED), [0x0001e00c, 0x00010004])
    assert.deepEqual(both(REQUEST_INVALIDATE_REMOTE), [0x000001f0, 0x000000c0])
    assert.deepEqual(both(REQUEST_INVALIDATE), [0x000001f0, 0x000000b0])
    assert.deepEqual(both(REQUEST_DETACH), [0x0001e000, 0x00004000])
    assert.deepEqual(both(REQUEST_VERIFY), [0x000001f0, 0x00000130])
    assert.deepEqual(both(REQUEST_REMOVE_VOLUME), [0x000001f0, 0x00000090])
    assert.deepEqual(both(REQUEST_DISCONNECT), [0x000001f0, 0x00000070])
    assert.deepEqual(both(REQUEST_DISCONNECT_OUTDATE_PEER), [0x00001ff0, 0x00000a70])
    assert.deepEqual(both(REQUEST_DISCONNECT_OUTDATE_SELF), [0x0001e1f0, 0x0000a070])
  })
})

describe('9.7 cluster-wide changes', () => {
  const ZERO = decodeStateWord(0)
  const CONN = { conn: K.C_MASK }

  it('masks and values are those of their fields', () => {
    const table: readonly [StateChange, Patch, Patch][] = [
      [REQUEST_PRIMARY, { role: K.R_MASK }, PRIMARY],
      [REQUEST_PRIMARY_FORCED, { role: K.R_MASK, disk: K.D_MASK }, { ...PRIMARY, disk: K.D_UPTODATE }],
      [REQUEST_INVALIDATE_REMOTE, CONN, { conn: K.C_STARTING_SYNC_S }],
      [REQUEST_INVALIDATE, CONN, { conn: K.C_STARTING_SYNC_T }],
      [REQUEST_DETACH, { disk: K.D_MASK }, { disk: K.D_FAILED }],
      [REQUEST_VERIFY, CONN, { conn: K.C_VERIFY_S }],
      [REQUEST_REMOVE_VOLUME, CONN, { conn: K.C_WF_REPORT_PARAMS }],
      [REQUEST_DISCONNECT, CONN, { conn: K.C_DISCONNECTING }],
      [REQUEST_DISCONNECT_OUTDATE_PEER, { ...CONN, pdsk: K.D_MASK }, { conn: K.C_DISCONNECTING, pdsk: K.D_OUTDATED }],
      [REQUEST_DISCONNECT_OUTDATE_SELF, { ...CONN, disk: K.D_MASK }, { conn: K.C_DISCONNECTING, disk: K.D_OUTDATED }],
    ]
    for (const [request, mask, value] of table) {
      const expected = { mask: encodeStateWord({ ...ZERO, ...mask }), value: encodeStateWord({ ...ZERO, ...value }) }
      assert.deepEqual(request, expected)
    }
  })

  const asks = (from: Patch, to: Patch): boolean => needsPeerConsent(state(from), state({ ...from, ...to }))

  it('promotion, detach, resync, verify, removal and disconnect ask', () => {
    assert.equal(asks({}, PRIMARY), true)
    assert.equal(asks({ role: K.R_UNKNOWN }, PRIMARY), true)
    assert.equal(asks({}, { disk: K.D_FAILED }), true)
    for (const conn of [
      K.C_STARTING_SYNC_S,
      K.C_STARTING_SYNC_T,
      K.C_VERIFY_S,
      K.C_WF_REPORT_PARAMS,
      K.C_DISCONNECTING,
    ]) {
      assert.equal(asks({}, { conn }), true, K.connectionStateName(conn))
    }
    assert.equal(asks({ conn: K.C_SYNC_SOURCE }, { conn: K.C_DISCONNECTING }), true)
    assert.equal(asks({ conn: K.C_SYNC_SOURCE }, PRIMARY), true)
  })

  it('demotion, outdating, pause, disk loss beyond Failed and network trouble do not', () => {
    assert.equal(asks(PRIMARY, { role: K.R_SECONDARY }), false)
    assert.equal(asks(PRIMARY, PRIMARY), false)
    assert.equal(asks({}, { disk: K.D_OUTDATED }), false)
    assert.equal(asks({}, { userIsp: true }), false)
    assert.equal(asks({ disk: K.D_FAILED }, { disk: K.D_DISKLESS }), false)
    assert.equal(asks({ disk: K.D_FAILED }, { userIsp: true }), false)
    for (const conn of [K.C_NETWORK_FAILURE, K.C_WF_BITMAP_S, K.C_VERIFY_T]) assert.equal(asks({}, { conn }), false)
    assert.equal(asks({ conn: K.C_SYNC_SOURCE }, { conn: K.C_VERIFY_S }), false)
    assert.equal(asks({ conn: K.C_STARTING_SYNC_S }, { conn: K.C_STARTING_SYNC_S, userIsp: true }), false)
  })

  it('without a connected volume nobody is asked', () => {
    for (const conn of ALL_CONNS.filter((c) => c < K.C_CONNECTED)) {
      for (const to of [PRIMARY, { disk: K.D_FAILED }, { conn: K.C_DISCONNECTING }])
        assert.equal(asks({ conn }, to), false)
    }
  })
})

describe('texts', () => {
  it('of 4.4: the sentences that scripts know', () => {
    const sentences = new Map([
      [-1, 'Multiple primaries not allowed by config'],
      [-2, 'Need access to UpToDate data'],
      [-6, 'Refusing to be Outdated while Connected'],
      [-7, 'Refusing to be Primary while peer is not outdated'],
      [-10, 'State change was refused by peer node'],
      [-12, 'Device is held open by someone'],
    ])
    for (const [code, text] of sentences) assert.equal(stateChangeText(code), text)
  })

  it('every code of the protocol has a text of its own', () => {
    const codes = Object.entries(K).flatMap(([name, value]) => (name.startsWith('SS_') ? [Number(value)] : []))
    assert.equal(codes.length, 25)
    const texts = codes.map(stateChangeText)
    for (const text of texts) assert.doesNotMatch(text, /^Unknown state/)
    assert.equal(new Set(texts).size, texts.length)
    assert.equal(stateChangeText(-77), 'Unknown state change result -77')
  })

  it('of 4.3: driver errors', () => {
    assert.equal(driverErrorText(158), 'Unknown resource')
    assert.equal(driverErrorText(165), 'Unclean meta-data found.')
    assert.equal(driverErrorText(100), 'Unknown error 100')
    const unused = [106, 109, 110, 113, 117, 128, 136]
    const codes = Array.from({ length: 176 - 101 + 1 }, (_, i) => 101 + i).filter((code) => !unused.includes(code))
    for (const code of codes) assert.doesNotMatch(driverErrorText(code), /^Unknown error/)
    assert.equal(new Set(codes.map(driverErrorText)).size, codes.length)
  })
})
