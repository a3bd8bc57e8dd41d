// The engine of one resource: a pure, synchronous, deterministic state machine. Events go in with the time, effects come
// out in order; it never waits, reads no clock and opens nothing. The daemon and the simulator run this same file.

import { unreachable } from '../base/assert.ts'
import type { AdminCommand, AdminResult, ClientError, ResourceSettings, ResourceStatus } from '../runtime/api.ts'
import type { Digests, Entropy } from '../runtime/ports.ts'
import {
  C_AHEAD,
  C_CONNECTED,
  C_STANDALONE,
  C_VERIFY_S,
  connectionStateName,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_OUTDATED,
  D_UNKNOWN,
  D_UPTODATE,
  R_PRIMARY,
  R_SECONDARY,
  R_UNKNOWN,
  roleName,
  SS_CONCURRENT_ST_CHG,
  SS_CW_FAILED_BY_PEER,
  SS_DEVICE_IN_USE,
  SS_IN_TRANSIENT_STATE,
  SS_NEED_CONNECTION,
  SS_NO_UP_TO_DATE_DISK,
  SS_NOTHING_TO_DO,
  SS_PRIMARY_NOP,
  SS_RESYNC_RUNNING,
  SS_SUCCESS,
  UUID_JUST_CREATED,
} from '../wire/drbd/constants.ts'
import { Connection } from './connection.ts'
import { DriverError } from './driver-error.ts'
import type { Effect } from './effects.ts'
import type { EngineEvent } from './events.ts'
import { FENCE_HANDLER_NAME } from './limits.ts'
import {
  driverErrorText,
  FENCING_NUMBER,
  REQUEST_INVALIDATE,
  REQUEST_INVALIDATE_REMOTE,
  REQUEST_PRIMARY,
  REQUEST_PRIMARY_FORCED,
  REQUEST_VERIFY,
  type StateChange,
  stateChangeText,
  type ValidityContext,
  validateChange,
} from './state-rules.ts'
import { Timers } from './timers.ts'
import { Volume } from './volume.ts'

/** How often a promotion is tried again when both hosts change their state at once. */
const PROMOTE_TRIES = 4
const PROMOTE_RETRY_MS = 50
/** Driver errors: paused already; not paused, or only by another resource, or by the peer. */
const PAUSE_IS_SET = 134
const PAUSE_IS_CLEAR = 135
const PAUSED_BY_DEPENDENCY = 156
const PAUSED_BY_PEER = 157
const RESIZE_DURING_RESYNC = 130
const RESIZE_NEEDS_PRIMARY = 131
const NO_SHRINKING = 170

export interface EngineOptions {
  /** Off only in the test of the tests: reads do not wait for overlapping writes in flight. */
  readonly readRule?: boolean
}

export class Engine {
  readonly settings: ResourceSettings
  readonly entropy: Entropy
  readonly digests: Digests
  readonly timers = new Timers()
  readonly connection: Connection
  readonly volumes: Volume[]
  readonly readRule: boolean
  nowMs = 0
  #deviceInUse = false
  #bootId: bigint | undefined
  /** Tells this process from others of the same host. */
  readonly instance: bigint
  #effects: Effect[] = []
  #statusDirty = false
  #stateDirty = false
  #fencing = false
  /** How often a Primary has lost its peer, and for which of these the running handler was started. */
  #losses = 0
  #lossFenced = 0
  /** So that two commands that are tried again at once have a timer each. */
  #promotions = 0
  readonly #afterFencing: (() => void)[] = []
  /** A demotion waits for the volumes to be quiet; one for all who asked for it, because none of them may wait for ever. */
  readonly #demotions: ((result: AdminResult) => void)[] = []
  /** The bitmaps of a demotion are being written. */
  #demoting = false
  /** `down` is under way. */
  #goingDown = false

  constructor(
    settings: ResourceSettings,
    ports: { readonly entropy: Entropy; readonly digests: Digests; readonly bootId?: bigint | undefined },
    options: EngineOptions = {},
  ) {
    this.settings = settings
    this.entropy = ports.entropy
    this.digests = ports.digests
    this.#bootId = ports.bootId
    this.instance = ports.entropy.u64()
    this.readRule = options.readRule ?? true
    this.connection = new Connection(this)
    this.volumes = settings.volumes.map((volume) => new Volume(this, volume))
  }

  step(event: EngineEvent, nowMs: number): Effect[] {
    this.nowMs = nowMs
    this.timers.run(nowMs)
    this.#dispatch(event)
    this.#settle()
    const effects = this.#effects
    this.#effects = []
    return effects
  }

  #dispatch(event: EngineEvent): void {
    switch (event.type) {
      case 'client.read':
        this.#client(
          event,
          (volume) => volume.io.read(event.id, event.sector, event.sectors),
          event.sector,
          event.sectors,
        )
        break
      case 'client.write': {
        const sectors = event.data.length / 512
        this.#client(
          event,
          (volume) => volume.io.write(event.id, event.sector, sectors, event.data, false, event.fua),
          event.sector,
          sectors,
        )
        break
      }
      case 'client.zero':
        this.#client(
          event,
          (volume) => volume.io.write(event.id, event.sector, event.sectors, undefined, event.unmap, event.fua),
          event.sector,
          event.sectors,
        )
        break
      case 'client.flush':
        this.#client(event, (volume) => volume.io.flush(event.id), 0, 0)
        break
      case 'disk.done':
        event.op.onDisk(event.error, event.data)
        break
      case 'devices.opened':
        this.volumeOf(event.volume)?.onDevicesOpened(event.devices)
        break
      case 'devices.failed':
        this.volumeOf(event.volume)?.onDevicesFailed(new DriverError(event.code, event.message))
        break
      case 'socket.connected':
        this.connection.onConnected(event.socket)
        break
      case 'socket.connect-failed':
        this.connection.onConnectFailed(event.reason)
        break
      case 'socket.accepted':
        this.connection.onAccepted(event.socket)
        break
      case 'listen.failed':
        this.connection.giveUp(event.reason)
        break
      case 'socket.packet':
        this.connection.onPacket(event.socket, event.packet)
        break
      case 'socket.garbage':
        this.connection.onGarbage(event.socket, event.reason)
        break
      case 'socket.closed':
        this.connection.onClosed(event.socket, event.reason)
        break
      case 'handler.done':
        this.#onHandlerDone(event.name, event.exitCode)
        break
      case 'admin':
        this.#onCommand(event.id, event.command)
        break
      case 'tick':
        break
      default:
        unreachable(event)
    }
  }

  /** Puts the state in order after an event: starts what waited, sends due barriers, saves metadata. */
  #settle(): void {
    for (const volume of this.volumes) while (volume.io.pumpNeeded) volume.io.pump()
    this.connection.epochs.onIdle()
    this.#maybeDemote()
    if (this.#stateDirty) {
      this.#stateDirty = false
      for (const volume of this.volumes) volume.saveIfChanged()
    }
    if (this.#statusDirty) {
      this.#statusDirty = false
      this.emit({ type: 'status' })
    }
  }

  /** Somebody has an export open: no demotion. */
  get deviceInUse(): boolean {
    return this.#deviceInUse
  }

  set deviceInUse(inUse: boolean) {
    this.#deviceInUse = inUse
    if (!inUse) for (const volume of this.volumes) volume.io.flushes.forgetLoss()
  }

  /** Where it is not known since when the machine is up, it counts as started with the process. */
  get bootId(): bigint {
    this.#bootId ??= this.entropy.u64()
    return this.#bootId
  }

  // ---- services for the other files ------------------------------------------------------------------------------------------

  emit(effect: Effect): void {
    if (effect.type === 'disk.write' || effect.type === 'disk.read')
      this.volumeOf(effect.volume)?.diskTraffic.count(effect)
    this.#effects.push(effect)
  }

  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, volume?: number): void {
    this.emit(volume === undefined ? { type: 'log', level, message } : { type: 'log', level, message, volume })
  }

  /** `dataUnused`: of a write, whether nobody looks at its data any more. */
  clientDone(id: number, error: ClientError | undefined, data?: Uint8Array, dataUnused = false): void {
    this.emit({ type: 'client.done', id, error, data, dataUnused })
  }

  statusChanged(): void {
    this.#statusDirty = true
  }

  stateChanged(): void {
    this.#statusDirty = true
    this.#stateDirty = true
  }

  volumeOf(number: number): Volume | undefined {
    for (const volume of this.volumes) if (volume.number === number) return volume
    return undefined
  }

  /** How large the pieces of a client's request may be for the peer at hand. `zeroBytes` 0: zeroes travel as data. */
  get pieceLimits(): { readonly writeBytes: number; readonly zeroBytes: number } {
    return { writeBytes: this.connection.writeBytesMax, zeroBytes: this.connection.zeroBytesMax }
  }

  get role(): number {
    return this.volumes[0]?.state.role ?? R_SECONDARY
  }

  validityContext(volume: Volume): ValidityContext & { readonly handshakeWindow: boolean } {
    return {
      twoPrimaries: this.settings.allowTwoPrimaries,
      anyPeerPrimary: this.volumes.some((other) => other !== volume && other.state.peer === R_PRIMARY),
      deviceInUse: this.deviceInUse,
      fencing: FENCING_NUMBER[this.settings.fencing],
      verifyAlg: this.settings.verifyAlg,
      apv: this.connection.apv,
      handshakeWindow: false,
    }
  }

  // ---- clients -----------------------------------------------------------------------------------------------------------------

  #client(
    event: { readonly id: number; readonly volume: number },
    start: (volume: Volume) => void,
    sector: number,
    sectors: number,
  ): void {
    const volume = this.volumeOf(event.volume)
    if (volume === undefined || !volume.inRange(sector, sectors)) {
      this.clientDone(event.id, {
        code: 'out-of-range',
        message: `sectors ${sector}+${sectors} are outside of volume ${event.volume}`,
      })
    } else if (volume.state.role !== R_PRIMARY) {
      this.clientDone(event.id, { code: 'not-primary', message: `${this.settings.name} is Secondary on this host` })
    } else start(volume)
  }

  // ---- fencing -----------------------------------------------------------------------------------------------------------------

  onPrimaryLostPeer(): void {
    this.#losses++
    if (this.settings.fencing !== 'dont-care') this.#runFencing()
  }

  #runFencing(): void {
    if (this.#fencing) return
    if (!this.settings.fencePeerHandler) {
      this.log('error', 'fencing is configured, but no fence-peer handler: nothing can say that the peer has stopped')
      for (const then of this.#afterFencing.splice(0)) then()
      return
    }
    this.#fencing = true
    this.#lossFenced = this.#losses
    this.log('info', 'running the fence-peer handler')
    this.emit({ type: 'handler.run', name: FENCE_HANDLER_NAME })
  }

  #onHandlerDone(name: string, exitCode: number): void {
    if (name !== FENCE_HANDLER_NAME) return
    this.#fencing = false
    this.log('info', `the fence-peer handler ended with ${exitCode}`)
    const lost = this.volumes.some((volume) => volume.state.conn < C_CONNECTED)
    if (this.#lossFenced !== this.#losses && lost) {
      // The peer has been back in between: what was true for the earlier loss may not be for this one.
      this.#runFencing()
      return
    }
    for (const volume of this.volumes) volume.onFenced(exitCode)
    for (const then of this.#afterFencing.splice(0)) then()
  }

  // ---- administration ------------------------------------------------------------------------------------------------------------

  #onCommand(id: number, command: AdminCommand): void {
    const done = (result: AdminResult): void => this.emit({ type: 'admin.done', id, result })
    switch (command.type) {
      case 'attach':
        this.#attach(command.volume, done)
        break
      case 'detach':
        this.#withVolume(command.volume, done, (volume) => this.#detach(volume, command.force, done))
        break
      case 'connect':
        if (this.connection.conn !== C_STANDALONE) done(driverResult(125))
        else if (command.discardMyData && this.role === R_PRIMARY) done(driverResult(123))
        else {
          this.connection.connect(command.discardMyData)
          done(OK)
        }
        break
      case 'disconnect':
        this.connection.disconnect(command.force, (code) => done(stateResult(code)))
        break
      case 'primary':
        this.#promote(command.force, PROMOTE_TRIES, false, done)
        break
      case 'secondary':
        this.#demote(done)
        break
      case 'invalidate':
        this.#withVolume(command.volume, done, (volume) => this.#invalidate(volume, false, done))
        break
      case 'invalidate-remote':
        this.#withVolume(command.volume, done, (volume) => this.#invalidate(volume, true, done))
        break
      case 'pause-sync':
      case 'resume-sync':
        this.#withVolume(command.volume, done, (volume) => this.#pauseSync(volume, command.type === 'pause-sync', done))
        break
      case 'resize':
        this.#withVolume(command.volume, done, (volume) => this.#resize(volume, command, done))
        break
      case 'verify':
        this.#withVolume(command.volume, done, (volume) => this.#verify(volume, command, done))
        break
      case 'new-current-uuid':
        this.#withVolume(command.volume, done, (volume) => this.#newCurrentUuid(volume, command.clearBitmap, done))
        break
      case 'outdate':
        this.#withVolume(command.volume, done, (volume) => this.#change(volume, { disk: D_OUTDATED }, 'outdate', done))
        break
      case 'resume-io':
        for (const volume of this.volumes) volume.resumeIo()
        done(OK)
        break
      case 'down':
        this.#down(done)
        break
      default:
        unreachable(command)
    }
  }

  #withVolume(number: number, done: (result: AdminResult) => void, use: (volume: Volume) => void): void {
    const volume = this.volumeOf(number)
    if (volume === undefined) done(driverResult(127))
    else use(volume)
  }

  #attach(number: number, done: (result: AdminResult) => void): void {
    this.#withVolume(number, done, (volume) => {
      if (volume.state.disk !== D_DISKLESS) {
        done(driverResult(124))
        return
      }
      volume.attach((error) => done(error === undefined ? OK : driverResult(drbdCodeOf(error), error.message)))
    })
  }

  #change(volume: Volume, patch: Partial<Volume['state']>, reason: string, done: (result: AdminResult) => void): void {
    const code = validateChange(volume.state, { ...volume.state, ...patch }, this.validityContext(volume))
    if (code >= SS_SUCCESS) volume.change(patch, reason)
    done(stateResult(code))
  }

  #detach(volume: Volume, force: boolean, done: (result: AdminResult) => void): void {
    if (volume.state.disk === D_DISKLESS) {
      done(OK)
      return
    }
    const code = validateChange(volume.state, { ...volume.state, disk: D_FAILED }, this.validityContext(volume))
    if (code < SS_SUCCESS && !force) {
      done(stateResult(code))
      return
    }
    if (force) {
      volume.detach('detach')
      done(OK)
    } else volume.closeDisk(() => done(OK))
  }

  // ---- promotion and demotion ------------------------------------------------------------------------------------------------------

  #promote(force: boolean, triesLeft: number, fenced: boolean, done: (result: AdminResult) => void): void {
    if (this.volumes.every((volume) => volume.state.role === R_PRIMARY)) {
      done(stateResult(SS_NOTHING_TO_DO))
      return
    }
    // It would leave its peer and its disk as a Primary.
    if (this.#goingDown) {
      this.#retryPromotion(SS_IN_TRANSIENT_STATE, force, triesLeft, fenced, done)
      return
    }
    for (const volume of this.volumes) {
      const wanted = { ...volume.state, role: R_PRIMARY }
      const { disk } = volume.state
      const raise =
        (force && disk >= D_INCONSISTENT) || (fenced && disk === D_CONSISTENT && volume.state.pdsk <= D_OUTDATED)
      if (raise) wanted.disk = D_UPTODATE
      const code = validateChange(volume.state, wanted, this.validityContext(volume))
      if (code >= SS_SUCCESS) continue
      const fencingHelps =
        code === SS_PRIMARY_NOP ||
        (code === SS_NO_UP_TO_DATE_DISK && disk === D_CONSISTENT && volume.state.pdsk >= D_UNKNOWN)
      if (fencingHelps && !fenced && volume.state.conn < C_CONNECTED && this.settings.fencing !== 'dont-care') {
        this.#afterFencing.push(() => this.#promote(force, triesLeft, true, done))
        this.#runFencing()
      } else this.#retryPromotion(code, force, triesLeft, fenced, done)
      return
    }
    this.#askPeerForPromotion(0, force, (code) => {
      if (code >= SS_SUCCESS) this.#becomePrimary(force, fenced, done)
      else this.#retryPromotion(code, force, triesLeft, fenced, done)
    })
  }

  /** Some refusals pass by themselves: the peer is in the middle of a change of its own. */
  #retryPromotion(
    code: number,
    force: boolean,
    triesLeft: number,
    fenced: boolean,
    done: (result: AdminResult) => void,
  ): void {
    // DRBD's rules refuse any change with -8 while a full resync is about to start (9.5).
    const transient =
      code === SS_CONCURRENT_ST_CHG ||
      code === SS_IN_TRANSIENT_STATE ||
      code === SS_CW_FAILED_BY_PEER ||
      code === SS_RESYNC_RUNNING
    if (!transient || triesLeft <= 0) {
      done(stateResult(code))
      return
    }
    this.timers.set(
      `promote-${++this.#promotions}`,
      this.nowMs + PROMOTE_RETRY_MS + (this.entropy.u32() % PROMOTE_RETRY_MS),
      () => this.#promote(force, triesLeft - 1, fenced, done),
    )
  }

  #askPeerForPromotion(index: number, force: boolean, done: (code: number) => void): void {
    const volume = this.volumes[index]
    if (volume === undefined) {
      done(SS_SUCCESS)
      return
    }
    if (volume.state.conn < C_CONNECTED) {
      this.#askPeerForPromotion(index + 1, force, done)
      return
    }
    const raised = force && volume.state.disk < D_UPTODATE && volume.state.disk >= D_INCONSISTENT
    this.connection.requestChange(volume, raised ? REQUEST_PRIMARY_FORCED : REQUEST_PRIMARY, (code) => {
      if (code >= SS_SUCCESS) this.#askPeerForPromotion(index + 1, force, done)
      else done(code === 0 ? SS_IN_TRANSIENT_STATE : code)
    })
  }

  #becomePrimary(force: boolean, fenced: boolean, done: (result: AdminResult) => void): void {
    let open = this.volumes.length
    const written = (): void => {
      if (--open === 0) done(OK)
    }
    for (const volume of this.volumes) {
      const { disk, pdsk, conn } = volume.state
      const forced = force && disk >= D_INCONSISTENT && disk < D_UPTODATE
      const raised = forced || (fenced && disk === D_CONSISTENT && pdsk <= D_OUTDATED)
      volume.change({ role: R_PRIMARY, ...(raised ? { disk: D_UPTODATE } : {}) }, 'promotion')
      const alone = conn < C_CONNECTED || pdsk <= D_FAILED
      if (forced || (alone && volume.uuids.bitmap === 0n && volume.state.disk === D_UPTODATE)) volume.newCurrentUuid()
      if (forced && conn >= C_CONNECTED) {
        volume.negotiation.sendUuids(0)
        volume.negotiation.sendState()
      }
      // "Was Primary" is on disk before the first write.
      volume.saveBeforeGoingOn(written)
    }
    if (this.volumes.length === 0) done(OK)
  }

  #demote(done: (result: AdminResult) => void): void {
    if (this.role !== R_PRIMARY) {
      done(stateResult(SS_NOTHING_TO_DO))
      return
    }
    if (this.deviceInUse) {
      done(stateResult(SS_DEVICE_IN_USE))
      return
    }
    this.#demotions.push(done)
  }

  /**
   * No request is in progress any more: what was written becomes stable on both hosts, because the log that stands for it
   * will not count any more; bitmap to disk; then "was Primary" is taken back.
   */
  #maybeDemote(): void {
    if (this.#demotions.length === 0 || this.#demoting || !this.#quiet) return
    this.#demoting = true
    const writes = this.#writeRequests
    let open = this.volumes.length
    const written = (): void => {
      if (--open > 0) return
      this.#demoting = false
      // A request may have come meanwhile; then it is tried again at the end of the turn that completes it. A write that is done
      // already is on both hosts, and not stable.
      if (this.#quiet && this.#writeRequests === writes) this.#becomeSecondary()
    }
    for (const volume of this.volumes) {
      const writeBitmap = (): void => {
        if (volume.bitmap !== undefined && volume.store !== undefined)
          volume.store.writeBitmap(volume.bitmap, 'changed', written)
        else written()
      }
      if (volume.replicates) volume.io.flushes.requestBoth(writeBitmap)
      else writeBitmap()
    }
  }

  #becomeSecondary(): void {
    const asked = this.#demotions.splice(0)
    let open = this.volumes.length
    for (const volume of this.volumes) {
      volume.change({ role: R_SECONDARY }, 'demotion')
      volume.io.flushes.forgetLoss()
      volume.saveBeforeGoingOn(() => {
        if (--open > 0) return
        for (const done of asked) done(OK)
      })
    }
  }

  get #writeRequests(): number {
    return this.volumes.reduce((sum, volume) => sum + volume.io.writeRequests, 0)
  }

  /** No request is under way; and what the peer was not given while it was Behind is durable as a resync that it needs. */
  get #quiet(): boolean {
    return this.volumes.every((volume) => volume.io.quiet && volume.state.conn !== C_AHEAD)
  }

  // ---- the rest --------------------------------------------------------------------------------------------------------------------

  #invalidate(volume: Volume, remote: boolean, done: (result: AdminResult) => void): void {
    const { conn, role, disk } = volume.state
    if (conn >= C_CONNECTED) {
      this.#enterTogether(volume, remote ? REQUEST_INVALIDATE_REMOTE : REQUEST_INVALIDATE, (code) => {
        if (code >= SS_SUCCESS) volume.negotiation.startFullSync(remote)
        done(stateResult(code))
      })
    } else if (disk < D_INCONSISTENT) done(driverResult(138))
    else if (remote ? role !== R_PRIMARY : role === R_PRIMARY)
      done(stateResult(remote ? SS_NEED_CONNECTION : SS_NO_UP_TO_DATE_DISK))
    else {
      if (!remote) volume.change({ disk: D_INCONSISTENT }, 'invalidate')
      volume.setAllOutOfSync()
      done(OK)
    }
  }

  /** Both disks must have the space already; internal metadata stays where it is. */
  #resize(
    volume: Volume,
    wanted: { readonly sizeSectors: number; readonly assumeClean: boolean },
    done: (result: AdminResult) => void,
  ): void {
    const { conn, role, peer, disk } = volume.state
    if (conn > C_CONNECTED) done(driverResult(RESIZE_DURING_RESYNC))
    else if (conn < C_CONNECTED) done(stateResult(SS_NEED_CONNECTION))
    else if (role !== R_PRIMARY && peer !== R_PRIMARY) done(driverResult(RESIZE_NEEDS_PRIMARY))
    else if (disk < D_INCONSISTENT) done(driverResult(138))
    else if (wanted.sizeSectors > 0 && wanted.sizeSectors < volume.sizeSectors) done(driverResult(NO_SHRINKING))
    else {
      volume.setUserSize(wanted.sizeSectors)
      volume.negotiation.growOnline(wanted.assumeClean)
      done(OK)
    }
  }

  #pauseSync(volume: Volume, pause: boolean, done: (result: AdminResult) => void): void {
    const { userIsp, aftrIsp, peerIsp } = volume.state
    if (userIsp !== pause) this.#change(volume, { userIsp: pause }, pause ? 'pause-sync' : 'resume-sync', done)
    else if (pause) done(driverResult(PAUSE_IS_SET))
    else if (aftrIsp) done(driverResult(PAUSED_BY_DEPENDENCY))
    else done(driverResult(peerIsp ? PAUSED_BY_PEER : PAUSE_IS_CLEAR))
  }

  #verify(
    volume: Volume,
    range: { readonly startSector: number; readonly stopSector: number | undefined },
    done: (result: AdminResult) => void,
  ): void {
    const wanted = { ...volume.state, conn: C_VERIFY_S }
    const code = validateChange(volume.state, wanted, this.validityContext(volume))
    if (code < SS_SUCCESS || volume.state.conn !== C_CONNECTED) {
      done(stateResult(code < SS_SUCCESS ? code : SS_NEED_CONNECTION))
      return
    }
    this.#enterTogether(volume, REQUEST_VERIFY, (reply) => {
      if (reply >= SS_SUCCESS) {
        volume.io.verify.plan(range.startSector, range.stopSector ?? volume.sizeSectors)
        volume.change({ conn: C_VERIFY_S }, 'verify')
      }
      done(stateResult(reply))
    })
  }

  /**
   * Asks the peer to begin a resync or a verify together. If a disk is lost before its consent arrives, it gives up by itself
   * as soon as it knows: this host must not begin any more, not even if the disk is back.
   */
  #enterTogether(volume: Volume, change: StateChange, done: (code: number) => void): void {
    const { disksLost } = volume
    this.connection.requestChange(volume, change, (code) => {
      if (code === 0) done(SS_NEED_CONNECTION)
      else done(code >= SS_SUCCESS && volume.disksLost !== disksLost ? SS_IN_TRANSIENT_STATE : code)
    })
  }

  #newCurrentUuid(volume: Volume, clearBitmap: boolean, done: (result: AdminResult) => void): void {
    const { conn, disk } = volume.state
    if (disk < D_INCONSISTENT) done(driverResult(138))
    else if (conn === C_CONNECTED && clearBitmap && (volume.uuids.current & ~1n) === UUID_JUST_CREATED) {
      volume.negotiation.skipInitialSync()
      done(OK)
    } else if (conn === C_CONNECTED && clearBitmap && volume.allInSync) {
      // Two new, all-zero disks were declared equal by themselves: the documented recipe finds its work done.
      done(OK)
    } else if (conn !== C_STANDALONE) done(driverResult(151))
    else {
      volume.rotateToNewCurrent(clearBitmap)
      done(OK)
    }
  }

  #down(done: (result: AdminResult) => void): void {
    this.#goingDown = true
    const end = (result: AdminResult): void => {
      this.#goingDown = false
      done(result)
    }
    const detachAll = (): void => {
      let open = this.volumes.length
      if (open === 0) end(OK)
      for (const volume of this.volumes) {
        volume.closeDisk(() => {
          if (--open === 0) end(OK)
        })
      }
    }
    this.#demote((result) => {
      if (result.code !== 0) end(result)
      else
        this.connection.disconnect(false, (code) =>
          code >= SS_SUCCESS ? detachAll() : this.connection.disconnect(true, detachAll),
        )
    })
  }

  status(): ResourceStatus {
    const first = this.volumes[0]
    const inFlightBytes = 0
    const packets = { sent: 0, received: 0 } // counted, like bytes in flight, by the replica
    return {
      name: this.settings.name,
      role: roleName(this.role) as ResourceStatus['role'],
      peerRole: roleName(first?.state.peer ?? R_UNKNOWN) as ResourceStatus['peerRole'],
      connection: connectionStateName(
        this.connection.conn === 9 && first !== undefined ? first.state.conn : this.connection.conn,
      ),
      connectionReason: this.connection.reason,
      agreedProtocolVersion: this.connection.established ? this.connection.apv : 0,
      resolveConflicts: this.connection.resolveConflicts,
      order: this.settings.order.name,
      coordinates:
        this.connection.established && COORDINATED.has(this.settings.order.name)
          ? this.connection.coordinates
          : undefined,
      inFlightBytes,
      packets,
      volumes: this.volumes.map((volume) => volume.status()),
    }
  }
}

const COORDINATED: ReadonlySet<string> = new Set(['coordinator', 'auto'])
const OK: AdminResult = { code: 0, text: '' }

/** Errors of meta/ carry DRBD's number in their details; anything else is a metadata I/O error. */
function drbdCodeOf(error: Error): number {
  if (error instanceof DriverError) return error.drbdCode
  const details = (error as { readonly details?: { readonly drbdCode?: unknown } }).details
  return typeof details?.drbdCode === 'number' ? details.drbdCode : 118
}

function stateResult(code: number): AdminResult {
  return code >= SS_SUCCESS ? OK : { code, text: stateChangeText(code) }
}

function driverResult(code: number, detail?: string): AdminResult {
  const text = driverErrorText(code)
  return detail === undefined ? { code, text } : { code, text, detail }
}
