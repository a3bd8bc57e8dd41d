// What one volume says to the peer about itself and makes of what it hears: sizes, generations, state (wire-protocol.md 4).
// The order P_SIZES, P_UUIDS, P_STATE is load-bearing: P_STATE triggers the decision and uses the other two.

import { sameGeneration, type Uuids } from '../meta/uuids.ts'
import type { ResyncPace } from '../runtime/api.ts'
import {
  C_AHEAD,
  C_BEHIND,
  C_CONNECTED,
  C_PAUSED_SYNC_S,
  C_PAUSED_SYNC_T,
  C_STARTING_SYNC_S,
  C_STARTING_SYNC_T,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_TEAR_DOWN,
  C_VERIFY_T,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  C_WF_REPORT_PARAMS,
  C_WF_SYNC_UUID,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  D_UPTODATE,
  diskStateName,
  R_PRIMARY,
  R_SECONDARY,
  SS_CONNECTED_OUTDATES,
  SS_IN_TRANSIENT_STATE,
  SS_NO_UP_TO_DATE_DISK,
  SS_NOT_SUPPORTED,
  SS_SUCCESS,
  UF_CRASHED_PRIMARY,
  UF_DISCARD_MY_DATA,
  UF_INCONSISTENT,
  UF_SKIP_INITIAL_SYNC,
  UUID_JUST_CREATED,
} from '../wire/drbd/constants.ts'
import type { PacketOf } from '../wire/drbd/packets.ts'
import { decodeStateWord, encodeStateWord, type StateWord } from '../wire/drbd/state-word.ts'
import { compareGenerations, decideSync, type GenerationView } from './generations.ts'
import { REQUEST_BYTES_MAX } from './limits.ts'
import { stateChangeText, translatePeerView, validate, validateChange } from './state-rules.ts'
import type { Volume } from './volume.ts'

/**
 * Ours, in the FLAGS of P_UUIDS, only to a coprime peer: this disk was just created and is known to hold nothing but
 * zeroes. Two such disks are in sync; their first generation is the one that the holder of the resolve-conflicts flag
 * proposes, in the slot HIST1, which a just-created disk does not use (docs/protocol.md).
 */
export const UF_ALL_ZERO = 0x1_0000
/**
 * Ours, like the one before: the disk that is being attached is Outdated. P_STATE says Negotiating then, and without this the
 * peer would decide by another rule than we do (`overrideByOutdated` in generations.ts).
 */
export const UF_OUTDATED = 0x2_0000

const DEFAULT_PACE: ResyncPace = {
  resyncRateKib: 250,
  cPlanAhead: 20,
  cDelayTarget: 10,
  cFillTarget: 100,
  cMaxRateKib: 102_400,
}

/** dds_flags of P_SIZES: the new space needs no resync. */
const DDSF_NO_RESYNC = 2

export class Negotiation {
  readonly #volume: Volume
  /** The peer's generations as it sent them last, corrected by rules 35 and 51. */
  #peer: GenerationView | undefined
  /** The own ones as they were sent last: the peer computes with these. */
  #sent: GenerationView | undefined
  #peerSizes: PacketOf<'P_SIZES'> | undefined
  #pendingSyncUuid: bigint | undefined
  /** The peer has told that it is Connected, too: no state of its handshake is still under way. */
  #peerConnected = false
  #skipWanted = false
  /** The peer was promoted by force while both disks were Inconsistent: its next state is to be decided on. */
  #considerResync = false
  /** A resize asked for here waits for the peer's sizes. */
  #resizePending = false
  #proposal = 0n
  peerMaxBioBytes = 0

  constructor(volume: Volume) {
    this.#volume = volume
  }

  get peerGeneration(): Uuids | undefined {
    return this.#peer
  }

  /** The own disk is lost, and was no good: what clients see is the peer's. */
  exposePeer(): void {
    if (this.#peer !== undefined && this.#volume.state.conn >= C_CONNECTED) this.#volume.exposed.follow(this.#peer)
  }

  get peerConnected(): boolean {
    return this.#peerConnected
  }

  /** After a resync both hosts hold the same set. */
  peerTookOver(uuids: Uuids): void {
    this.#peer = { ...uuids, dirtyBits: 0, uuidFlags: 0 }
  }

  /** Our disk or the peer's: the next resync has a sync UUID of its own. */
  onDiskLost(): void {
    this.#pendingSyncUuid = undefined
  }

  onPeerLost(): void {
    this.#peer = undefined
    this.#peerSizes = undefined
    this.#pendingSyncUuid = undefined
    this.#peerConnected = false
    this.#skipWanted = false
    this.#considerResync = false
  }

  // ---- sending -----------------------------------------------------------------------------------------------------------

  /** The burst of the handshake, or of a volume that appears later. */
  introduce(): void {
    const volume = this.#volume
    const { settings, connection } = volume.engine
    volume.resetSequence()
    connection.resetHighest(volume.number)
    // A peer with a disk adopts all of them (3.13), so they have to be those of the configuration.
    const { resyncRateKib, ...pace } = volume.settings.resyncPace ?? DEFAULT_PACE
    if (connection.apv >= 89) {
      connection.sendData({
        type: 'P_SYNC_PARAM89',
        volume: volume.number,
        resyncRateKib,
        verifyAlg: settings.verifyAlg,
        csumsAlg: settings.csumsAlg,
        ...(connection.apv >= 95 ? pace : {}),
      } as PacketOf<'P_SYNC_PARAM89'>)
    } else
      connection.sendData({
        type: 'P_SYNC_PARAM',
        volume: volume.number,
        resyncRateKib,
        verifyAlg: settings.verifyAlg,
      } as PacketOf<'P_SYNC_PARAM'>)
    this.sendSizes(0)
    if (volume.state.disk >= D_NEGOTIATING) this.sendUuids(0)
    this.sendState()
  }

  announceAttach(): void {
    this.sendSizes(0)
    this.sendUuids(0)
    this.sendState()
  }

  /** `asking`: the peer is to answer with its own. */
  sendSizes(ddsFlags: number, asking = false): void {
    const volume = this.#volume
    const { connection } = volume.engine
    const common = {
      type: 'P_SIZES' as const,
      volume: volume.number,
      backingSectors: volume.usableSectors,
      userSectors: volume.userSectors,
      currentSectors: asking ? 0 : volume.sizeSectors,
      maxBioBytes: connection.apv >= 100 ? REQUEST_BYTES_MAX : connection.apv >= 95 ? 131072 : 32768,
      queueOrderType: 0,
      ddsFlags,
    }
    const limits = {
      physicalBlockBytes: 4096,
      logicalBlockBytes: 512,
      alignmentOffset: 0,
      ioMin: 4096,
      ioOpt: 0,
      discardEnabled: 1,
      discardZeroesData: 0,
      writeSameCapable: 0,
    }
    connection.sendData((connection.hasQueueLimits ? { ...common, limits } : common) as PacketOf<'P_SIZES'>)
  }

  sendUuids(extraFlags: number): void {
    const volume = this.#volume
    const { connection } = volume.engine
    if (volume.uuids.current === 0n) return
    let uuidFlags = extraFlags
    if (connection.discardMyData) uuidFlags |= UF_DISCARD_MY_DATA
    if (volume.crashedPrimary) uuidFlags |= UF_CRASHED_PRIMARY
    const disk = volume.state.disk === D_NEGOTIATING ? volume.attachDisk : volume.state.disk
    if (disk === D_INCONSISTENT) uuidFlags |= UF_INCONSISTENT
    if (disk === D_OUTDATED && connection.coprimePeer) uuidFlags |= UF_OUTDATED
    const bitmap = (extraFlags & UF_SKIP_INITIAL_SYNC) !== 0 ? UUID_JUST_CREATED : volume.uuids.bitmap
    let { history1 } = volume.uuids
    if (volume.allZero && connection.coprimePeer && sameGeneration(volume.uuids.current, UUID_JUST_CREATED)) {
      uuidFlags |= UF_ALL_ZERO
      this.#proposal = volume.engine.entropy.u64() & ~1n
      history1 = this.#proposal
    }
    this.#sent = { ...volume.uuids, bitmap, history1, dirtyBits: volume.bitmap?.count ?? 0, uuidFlags }
    connection.sendData({ type: 'P_UUIDS', volume: volume.number, ...this.#sent })
  }

  sendState(): void {
    const volume = this.#volume
    volume.engine.connection.sendData({ type: 'P_STATE', volume: volume.number, state: encodeStateWord(volume.state) })
  }

  // ---- P_SIZES (4.1) -------------------------------------------------------------------------------------------------------

  onSizes(packet: PacketOf<'P_SIZES'>): void {
    const volume = this.#volume
    const { connection } = volume.engine
    this.#peerSizes = packet
    this.peerMaxBioBytes = packet.maxBioBytes
    if (volume.usableSectors === 0) {
      const next = packet.currentSectors || packet.userSectors || packet.backingSectors
      if (next === 0 || next === volume.sizeSectors || (volume.sizeSectors > 0 && packet.backingSectors === 0)) return
      if (next < volume.sizeSectors && volume.state.role === R_PRIMARY) {
        connection.giveUp(`the peer's disk (${next} sectors) is smaller than this device (${volume.sizeSectors})`)
        return
      }
      volume.resize(next, true)
      return
    }
    const connected = volume.state.conn > C_WF_REPORT_PARAMS
    // A peer that resizes says what it wants; a wish to shrink is not followed.
    const wish = packet.userSectors
    if (connected && (wish === 0 || wish >= volume.sizeSectors)) volume.setUserSize(wish)
    const next = this.#agreedSize(connected ? { ...packet, userSectors: volume.userSectors } : packet)
    if (
      next < volume.sizeSectors &&
      volume.state.disk >= D_OUTDATED &&
      (volume.state.conn < C_CONNECTED || volume.state.pdsk === D_DISKLESS)
    ) {
      connection.giveUp(
        `the peer's disk is too small: ${next} sectors, this device has ${volume.sizeSectors} with data on them`,
      )
      return
    }
    const grew = next > volume.sizeSectors || this.#resizePending
    const clean = (packet.ddsFlags & DDSF_NO_RESYNC) !== 0
    volume.resize(next, clean)
    if (!connected) return
    if (packet.currentSectors !== volume.sizeSectors) this.sendSizes(packet.ddsFlags)
    this.#resizePending = false
    if (grew && !clean) this.#resyncNewSpace()
  }

  /** Asked for by the administrator: as large as both disks allow, or as `volume.userSectors` says. */
  growOnline(clean: boolean): void {
    const volume = this.#volume
    const peer = this.#peerSizes
    const before = volume.sizeSectors
    if (peer !== undefined) volume.resize(this.#agreedSize({ ...peer, userSectors: volume.userSectors }), clean)
    this.#resizePending = volume.sizeSectors > before
    this.sendUuids(0)
    this.sendSizes(clean ? DDSF_NO_RESYNC : 0, true)
  }

  /** Online grow (8.9): no bitmaps are exchanged, both have set the bits of the new space. */
  #resyncNewSpace(): void {
    const volume = this.#volume
    const { role, peer, conn, disk, pdsk } = volume.state
    if (conn !== C_CONNECTED || disk < D_INCONSISTENT || pdsk < D_INCONSISTENT) return
    const asSource = role === peer ? volume.engine.connection.resolveConflicts : role === R_PRIMARY
    if (asSource) volume.resyncBounds.beginAsSource()
    else {
      volume.change({ conn: C_WF_SYNC_UUID }, 'the device has grown')
      this.applyPendingSyncUuid()
    }
  }

  #agreedSize(packet: PacketOf<'P_SIZES'>): number {
    const volume = this.#volume
    const own = volume.usableSectors
    const peer = packet.backingSectors
    const user = Math.min(
      volume.userSectors || Number.POSITIVE_INFINITY,
      packet.userSectors || Number.POSITIVE_INFINITY,
    )
    const candidate = peer > 0 ? Math.min(own, peer) : Math.min(volume.sizeSectors || own, own)
    return Number.isFinite(user) && user <= candidate ? user : candidate
  }

  // ---- P_UUIDS (4.3) -------------------------------------------------------------------------------------------------------

  onUuids(packet: PacketOf<'P_UUIDS'>): void {
    const volume = this.#volume
    const { state } = volume
    if (state.disk < D_INCONSISTENT) {
      const foreign = state.role === R_PRIMARY && !volume.exposed.mayServePeer(packet)
      if (foreign && (state.conn < C_CONNECTED || state.pdsk === D_DISKLESS)) {
        volume.engine.connection.giveUp("the peer's data are not those that clients of this host saw last")
        return
      }
      volume.exposed.follow(packet)
    }
    this.#peer = packet
    if (packet.bitmap !== 0n) volume.onPeerIsAhead()
    if (
      volume.bitmap !== undefined &&
      state.disk >= D_INCONSISTENT &&
      state.conn === C_CONNECTED &&
      volume.engine.connection.apv >= 90 &&
      sameGeneration(volume.uuids.current, UUID_JUST_CREATED) &&
      (packet.uuidFlags & UF_SKIP_INITIAL_SYNC) !== 0
    ) {
      volume.engine.log('info', 'the peer skips the initial sync: both disks count as equal', volume.number)
      volume.declareInSync(packet.current)
      // A kernel that is to be the target later takes over the generation that it was told of last.
      this.sendUuids(0)
    }
  }

  /**
   * Two just-created disks: one new generation for both, no block is copied. Waits for the state that the peer sends when
   * it has connected: it would arrive later and still say Inconsistent.
   */
  skipInitialSync(): void {
    const volume = this.#volume
    if (!this.#peerConnected) {
      this.#skipWanted = true
      return
    }
    this.#skipWanted = false
    const current = volume.engine.entropy.u64()
    volume.declareInSync(current)
    this.sendUuids(UF_SKIP_INITIAL_SYNC)
  }

  // ---- P_STATE (4.4) -------------------------------------------------------------------------------------------------------

  onState(word: number): void {
    const volume = this.#volume
    const peer = decodeStateWord(word)
    const own = volume.state
    let real = peer.disk
    if (peer.disk === D_NEGOTIATING) real = diskFoundAtAttach(this.#peer?.uuidFlags ?? 0)
    if (own.conn <= C_TEAR_DOWN) return
    if (own.conn === C_WF_REPORT_PARAMS && !volume.engine.connection.orderIsAgreed()) return
    const settled = this.#endOfResync(peer, own, real)
    if (settled === 'done') return
    real = settled
    // What a peer that is Behind says of its disk is known here already, and no new loss.
    if (own.conn === C_AHEAD && real >= D_INCONSISTENT) real = own.pdsk
    let conn = own.conn
    if (own.conn === C_WF_REPORT_PARAMS) conn = C_CONNECTED
    // The peer is congested: it goes on without us, and will be the source of a resync when it is not any more (8.11).
    if (peer.conn === C_AHEAD && (conn === C_CONNECTED || conn === C_BEHIND)) conn = C_BEHIND
    if (own.conn === C_WF_REPORT_PARAMS && this.#bothAllZero(peer, own)) {
      const proposal = volume.engine.connection.resolveConflicts ? this.#proposal : (this.#peer?.history1 ?? 0n)
      volume.engine.log('info', 'both disks are new and all zero: no initial sync is needed', volume.number)
      volume.declareInSync(proposal)
      this.#adopt(peer, volume.state, D_UPTODATE, C_CONNECTED)
      return
    }
    if (this.#needsDecision(peer, own)) {
      const decided = this.#decide(peer, real)
      if (decided === undefined) return
      if (decided === 'peer-attach-failed') {
        // The peer waits for our state to come to the same end.
        real = D_DISKLESS
        this.sendUuids(0)
        this.sendState()
      } else conn = decided
    }
    this.#adopt(peer, own, real, conn)
  }

  /** Steps 3 to 5: states that say that a resync or verify is over, or that are late. */
  #endOfResync(peer: StateWord, own: StateWord, real: number): number | 'done' {
    const volume = this.#volume
    if (
      (own.pdsk === D_INCONSISTENT || own.pdsk === D_CONSISTENT) &&
      real === D_UPTODATE &&
      own.conn > C_CONNECTED &&
      own.disk === D_UPTODATE
    ) {
      if (peer.conn > C_CONNECTED && peer.conn < C_SYNC_SOURCE) return D_INCONSISTENT
      if (own.conn >= C_SYNC_SOURCE && own.conn < C_AHEAD && peer.conn === C_CONNECTED) {
        if ((volume.bitmap?.count ?? 0) <= volume.io.resync.failedBits) {
          volume.engine.connection.pingThen(() => {
            if (volume.state.conn === C_SYNC_SOURCE || volume.state.conn === C_PAUSED_SYNC_S)
              volume.resyncBounds.finishAsSource()
          })
        }
        return 'done'
      }
    }
    if (own.conn === C_VERIFY_T && own.disk === D_UPTODATE && peer.conn === C_CONNECTED && real === D_UPTODATE) {
      volume.change({ conn: C_CONNECTED }, 'verify is done')
      return 'done'
    }
    if (own.pdsk === D_UPTODATE && real === D_INCONSISTENT && own.conn === C_CONNECTED && peer.conn > C_SYNC_SOURCE)
      return D_UPTODATE
    return real
  }

  #bothAllZero(peer: StateWord, own: StateWord): boolean {
    if (this.#peer === undefined || this.#sent === undefined || this.#volume.bitmap === undefined) return false
    if (peer.disk !== D_INCONSISTENT || own.disk !== D_INCONSISTENT) return false
    return (this.#peer.uuidFlags & this.#sent.uuidFlags & UF_ALL_ZERO) !== 0
  }

  #needsDecision(peer: StateWord, own: StateWord): boolean {
    if (this.#peer === undefined || peer.disk < D_NEGOTIATING || own.disk < D_NEGOTIATING) return false
    if (own.conn < C_CONNECTED) return true
    if (own.conn !== C_CONNECTED) return false
    if (this.#considerResync) return true
    return (
      peer.disk === D_NEGOTIATING ||
      own.disk === D_NEGOTIATING ||
      (peer.conn >= C_STARTING_SYNC_S && peer.conn <= C_WF_BITMAP_T)
    )
  }

  /** Who has the better data. Returns the connection state that follows; undefined: the connection or an attach is given up. */
  #decide(peer: StateWord, real: number): number | 'peer-attach-failed' | undefined {
    const volume = this.#volume
    const { engine, state } = volume
    const { connection, settings } = engine
    const peerView = this.#peer
    this.#considerResync = false
    if (peerView === undefined) return C_CONNECTED
    const selfView: GenerationView = { ...(this.#sent ?? { dirtyBits: 0, uuidFlags: 0 }), ...volume.uuids }
    const compared = compareGenerations({
      self: selfView,
      peer: peerView,
      selfCrashedPrimary: volume.crashedPrimary,
      peerCrashedPrimary: (peerView.uuidFlags & UF_CRASHED_PRIMARY) !== 0,
      selfRole: state.role,
      peerRole: peer.role,
      apv: connection.apv,
      features: connection.features,
      resolveConflicts: connection.resolveConflicts,
      survivorWins: connection.coprimePeer && settings.protocol === 'C',
    })
    if (compared.self !== undefined) volume.setUuids(compared.self)
    if (compared.peer !== undefined) this.#peer = { ...peerView, ...compared.peer }
    const decision = decideSync({
      compared,
      selfDisk: state.disk,
      attachDisk: volume.attachDisk,
      peerDisk: real,
      selfRole: state.role,
      peerRole: peer.role,
      afterSb0p: settings.afterSb0p,
      afterSb1p: settings.afterSb1p,
      afterSb2p: settings.afterSb2p,
      alwaysAsbp: settings.alwaysAsbp,
      rrConflict: settings.rrConflict,
      selfDiscardMyData: connection.discardMyData,
      peerDiscardMyData: (peerView.uuidFlags & UF_DISCARD_MY_DATA) !== 0,
      dryRun: false,
      selfBitsSent: this.#sent?.dirtyBits ?? 0,
      peerBits: peerView.dirtyBits,
      selfBitmapBit0: (volume.uuids.bitmap & 1n) === 1n,
      peerBitmapBit0: (peerView.bitmap & 1n) === 1n,
      resolveConflicts: connection.resolveConflicts,
      coprimePeer: connection.coprimePeer,
      demote: () => false,
    })
    engine.log(
      'info',
      `generations compared: result ${compared.result} by rule ${compared.rule}, ${decision.outcome}`,
      volume.number,
    )
    switch (decision.outcome) {
      case 'none':
        return C_CONNECTED
      case 'source':
      case 'target':
        if (decision.full) volume.setAllOutOfSync()
        return decision.outcome === 'source' ? C_WF_BITMAP_S : C_WF_BITMAP_T
      default:
        if (state.disk === D_NEGOTIATING) {
          engine.log('error', `attach refused: ${decision.reason}`, volume.number)
          volume.detach(decision.reason)
          return undefined
        }
        if (peer.disk === D_NEGOTIATING) return 'peer-attach-failed'
        connection.giveUp(decision.reason)
        return undefined
    }
  }

  /** This host has no disk, and the one that it has lost had gone on from the data of this Secondary. */
  #isKnownOld(peer: StateWord, own: StateWord): boolean {
    if (this.#peer === undefined || own.disk >= D_NEGOTIATING || peer.role === R_PRIMARY) return false
    return peer.disk > D_OUTDATED && this.#volume.exposed.isPast(this.#peer.current)
  }

  /** A peer without a disk says that the one it has lost had gone on from the data of this host (ours). */
  #isSaidToBeOld(peer: StateWord, own: StateWord): boolean {
    if (!this.#volume.engine.connection.coprimePeer || own.role === R_PRIMARY || peer.conn !== C_CONNECTED) return false
    return peer.disk < D_NEGOTIATING && peer.pdsk === D_OUTDATED && own.disk > D_OUTDATED
  }

  /** Steps 8 to 10. */
  #adopt(peer: StateWord, own: StateWord, real: number, conn: number): void {
    const volume = this.#volume
    const { engine } = volume
    const attached = (conn === C_CONNECTED || conn === C_WF_BITMAP_S) && own.disk === D_NEGOTIATING
    const isKnownOld = this.#isKnownOld(peer, own)
    const isSaidToBeOld = this.#isSaidToBeOld(peer, own)
    const next = {
      conn,
      peer: peer.role,
      pdsk: isKnownOld ? D_OUTDATED : real,
      peerIsp: peer.aftrIsp || peer.userIsp,
      ...(attached ? { disk: volume.attachDisk } : {}),
      ...(isSaidToBeOld ? { disk: D_OUTDATED } : {}),
    }
    const until = 'nobody is promoted without force until that disk is attached again'
    if (isKnownOld && (own.conn < C_CONNECTED || own.pdsk !== D_OUTDATED))
      engine.log('warn', `the disk that this host has lost is newer than the peer's: ${until}`, volume.number)
    if (isSaidToBeOld)
      engine.log('warn', `the disk that the peer has lost is newer than the one of this host: ${until}`, volume.number)
    if (own.conn < C_CONNECTED && conn >= C_CONNECTED) {
      const implied = volume.implied(next)
      const code = validate(implied, engine.validityContext(volume))
      // No reason to part: what the peer attaches next may be the newer disk.
      const isOldBesideDiskless = code === SS_CONNECTED_OUTDATES && implied.pdsk < D_INCONSISTENT
      if (code < SS_SUCCESS && !isOldBesideDiskless) {
        engine.connection.giveUp(`the state of both hosts together is not allowed: ${stateChangeText(code)} (${code})`)
        return
      }
    }
    volume.change(next, 'state of the peer')
    if (peer.disk === D_INCONSISTENT && (peer.conn === C_SYNC_TARGET || peer.conn === C_PAUSED_SYNC_T))
      volume.io.resync.onTargetAsks()
    if (peer.conn >= C_CONNECTED) {
      this.#peerConnected = true
      volume.onPeerConnected()
    }
    if (this.#skipWanted) this.skipInitialSync()
    const after = volume.state.conn
    if (
      own.conn > C_WF_REPORT_PARAMS &&
      after > C_CONNECTED &&
      peer.conn <= C_CONNECTED &&
      peer.disk !== D_NEGOTIATING &&
      own.conn !== after
    ) {
      this.sendUuids(0)
      this.sendState()
    }
  }

  // ---- resync ----------------------------------------------------------------------------------------------------------------

  onSyncUuid(uuid: bigint): void {
    // It belongs to a resync that ended with our disk.
    if (this.#volume.state.disk < D_INCONSISTENT) return
    this.#pendingSyncUuid = uuid
    this.applyPendingSyncUuid()
  }

  applyPendingSyncUuid(): void {
    const volume = this.#volume
    const uuid = this.#pendingSyncUuid
    if (uuid === undefined || (volume.state.conn !== C_WF_SYNC_UUID && volume.state.conn !== C_BEHIND)) return
    this.#pendingSyncUuid = undefined
    volume.resyncBounds.beginAsTarget(uuid)
  }

  // ---- requests for a change of state (9.7) ----------------------------------------------------------------------------------

  /** The peer asks for a change; returns the code to reply with. */
  onChangeRequest(mask: number, value: number): number {
    const volume = this.#volume
    const { engine } = volume
    const ownMask = encodeStateWord(translatePeerView(decodeStateWord(mask)))
    const ownValue = encodeStateWord(translatePeerView(decodeStateWord(value)))
    const own = volume.state
    if (!isPeersBusiness(decodeStateWord(ownMask), decodeStateWord(ownValue))) return SS_NOT_SUPPORTED
    const wanted = decodeStateWord(((encodeStateWord(own) & ~ownMask) | ownValue) >>> 0)
    // A peer that came back without its memory must not have readers and writers before ours in doubt are applied.
    const promotes = own.peer !== R_PRIMARY && wanted.peer === R_PRIMARY
    if (promotes && volume.io.settlesDoubts) return SS_IN_TRANSIENT_STATE
    // A kernel without a disk takes an Outdated one for good, and one that attaches its own takes a Consistent one.
    if (promotes && own.disk < D_UPTODATE && wanted.pdsk < D_UPTODATE) return SS_NO_UP_TO_DATE_DISK
    const code = validateChange(own, wanted, { ...engine.validityContext(volume), handshakeWindow: false })
    if (code < SS_SUCCESS) return code
    if (wanted.conn === C_STARTING_SYNC_T || wanted.conn === C_STARTING_SYNC_S)
      this.startFullSync(wanted.conn === C_STARTING_SYNC_S)
    else {
      if (own.disk === D_INCONSISTENT && own.pdsk === D_INCONSISTENT && wanted.pdsk === D_UPTODATE)
        this.#considerResync = true
      volume.change(wanted, 'asked for by the peer')
    }
    return SS_SUCCESS
  }

  /** invalidate and invalidate-remote: no bitmaps are exchanged, every block is transferred (8.2). */
  startFullSync(asSource: boolean): void {
    const volume = this.#volume
    volume.change({ conn: asSource ? C_STARTING_SYNC_S : C_STARTING_SYNC_T }, 'full sync')
    volume.setAllOutOfSync()
    const session = volume.engine.connection.session
    volume.attached.store.whenWritten(() => {
      if (session !== volume.engine.connection.session) return
      if (asSource && volume.state.conn === C_STARTING_SYNC_S) volume.resyncBounds.beginAsSource()
      else if (!asSource && volume.state.conn === C_STARTING_SYNC_T) {
        volume.change({ conn: C_WF_SYNC_UUID }, 'full sync')
        this.applyPendingSyncUuid()
      }
    })
  }

  describePeer(): string {
    const { state } = this.#volume
    return `${diskStateName(state.pdsk)}${this.#peerSizes === undefined ? '' : `, ${this.#peerSizes.backingSectors} sectors`}`
  }
}

/** What the peer is about to attach: its state says Negotiating, its P_UUIDS says what that stands for. */
function diskFoundAtAttach(uuidFlags: number): number {
  if ((uuidFlags & UF_INCONSISTENT) !== 0) return D_INCONSISTENT
  return (uuidFlags & UF_OUTDATED) !== 0 ? D_OUTDATED : D_CONSISTENT
}

/** The changes of table 9.7: the peer may ask for what concerns itself, and for states of the volume that both enter. */
function isPeersBusiness(mask: StateWord, value: StateWord): boolean {
  const touchesOurs =
    mask.role !== 0 || mask.disk !== 0 || mask.susp || mask.suspNod || mask.suspFen || mask.userIsp || mask.aftrIsp
  if (touchesOurs) return false
  if (mask.peer !== 0 && value.peer !== R_PRIMARY && value.peer !== R_SECONDARY) return false
  if (mask.pdsk !== 0 && value.pdsk !== D_FAILED && value.pdsk !== D_UPTODATE) return false
  return (
    mask.conn === 0 ||
    value.conn === C_STARTING_SYNC_S ||
    value.conn === C_STARTING_SYNC_T ||
    value.conn === C_VERIFY_T ||
    value.conn === C_WF_REPORT_PARAMS
  )
}
