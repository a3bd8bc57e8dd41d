// One volume of a resource: its state word, its metadata in memory, and what follows from a change of state.
//
// The state changes only through `change`: it sanitises the wanted state (state-rules.ts), stores it and carries out the
// consequences in one fixed order. Conditions that other files ask for (`replicates`, `holdsWrites`, ...) are derived from
// the state and never stored.

import { assert } from '../base/assert.ts'
import type { AppError } from '../base/errors.ts'
import { alExtentsClamped } from '../meta/activity-log.ts'
import { Bitmap, blocksTouched } from '../meta/bitmap.ts'
import {
  diskStateFromFlags,
  MD_MAGIC_UNCLEAN,
  MDF_CRASHED_PRIMARY,
  MDF_FULL_SYNC,
  MDF_PEER_OUTDATED,
  MDF_PRIMARY_IND,
  type Superblock,
} from '../meta/superblock.ts'
import { newCurrent, setAndRotateBitmap, type Uuids, withPrimaryBit } from '../meta/uuids.ts'
import type { VolumeSettings, VolumeStatus } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import {
  C_AHEAD,
  C_CONNECTED,
  C_PAUSED_SYNC_T,
  C_STANDALONE,
  C_STARTING_SYNC_T,
  C_SYNC_TARGET,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  C_WF_SYNC_UUID,
  D_ATTACHING,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  D_UNKNOWN,
  D_UPTODATE,
  R_PRIMARY,
  R_SECONDARY,
  R_UNKNOWN,
  UUID_JUST_CREATED,
} from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'
import { type ActivityHost, ActivityLog } from './activity.ts'
import { DriverError } from './driver-error.ts'
import type { Effect } from './effects.ts'
import type { Engine } from './engine.ts'
import type { OpenedDevices } from './events.ts'
import { ExposedData, uuidsFound } from './exposed.ts'
import { fencingFinding } from './fencing-finding.ts'
import { capped } from './limits.ts'
import { type AttachedMetadata, bitmapOf, type MetadataHost, MetadataReader, MetadataStore } from './metadata-store.ts'
import { Negotiation } from './negotiation.ts'
import { ResyncBounds } from './resync-bounds.ts'
import { copySetBits, Stability } from './stability.ts'
import {
  describe,
  hasPeersDiskAppeared,
  isDiskLost,
  isForPeer,
  isNewWriterHere,
  isSyncing,
  isVerifying,
  lostPeerData,
  sameState,
} from './state-change.ts'
import { FENCING_NUMBER, sanitize } from './state-rules.ts'
import { DISK_OF_NAME, superblockFlags } from './superblock-flags.ts'
import { VolumeIo } from './volume-io.ts'
import { DiskTraffic, volumeStatus } from './volume-status.ts'

const NO_UUIDS: Uuids = { current: 0n, bitmap: 0n, history1: 0n, history2: 0n }

export class Volume implements MetadataHost, ActivityHost {
  readonly engine: Engine
  readonly settings: VolumeSettings
  readonly number: number
  readonly io: VolumeIo
  readonly negotiation: Negotiation
  readonly resyncBounds: ResyncBounds
  state: StateWord = {
    role: R_SECONDARY,
    peer: R_UNKNOWN,
    conn: C_STANDALONE,
    disk: D_DISKLESS,
    pdsk: D_UNKNOWN,
    susp: false,
    aftrIsp: false,
    peerIsp: false,
    userIsp: false,
    suspNod: false,
    suspFen: false,
  }
  uuids: Uuids = NO_UUIDS
  /** Current size in sectors as agreed with the peer; 0 while unknown. */
  sizeSectors = 0
  /** What the own backing disk could offer, in sectors; 0 = diskless. */
  usableSectors = 0
  /** Wanted by an administrator, here or at the peer, in sectors; 0: as much as both disks have. */
  userSectors: number
  crashedPrimary = false
  /** The data device is known to be all zero: nothing was ever written to it. */
  allZero = false
  /** Since when the connection is in its present state, and since when the disks are, the own one and the peer's. */
  connSinceMs = 0
  diskSinceMs = 0
  pdskSinceMs = 0
  /** How often a disk was lost, the own one or the peer's. */
  disksLost = 0
  /** Disk state found at attach, in force once the state of a connected peer is known. */
  attachDisk = D_DISKLESS
  readonly exposed = new ExposedData()
  #metadata: AttachedMetadata | undefined
  #devices: OpenedDevices | undefined
  #bitmap: Bitmap | undefined
  stability: Stability | undefined
  activity: ActivityLog | undefined
  #store: MetadataStore | undefined
  #written: { flags: number; uuids: Uuids; sizeSectors: number } | undefined
  #fullSync = false
  /**
   * The log counts, as a Primary's does, because a Primary without a disk writes here; until the bitmap on disk has what the
   * log stands for.
   */
  #keepsLog = false
  /** A new generation is due as soon as I/O is no longer suspended. */
  #newUuidPending = false
  /** The same as soon as a Primary without a disk has said that it takes our data for those that its clients saw last. */
  #newUuidWhenTaken = false
  /** The own disk is lost, and a peer of ours has not said yet that its disk knows it. */
  #awaitsPeer = false
  /** The peer was Primary when it was lost; has not been seen since. */
  #lostPrimary = false
  /** The disk counts as in sync and does not say so itself yet: a crash would leave it Inconsistent, with all that is on it. */
  inSyncUnsaved = false
  /** Superblock writes that new writes and lone completions wait for. */
  #gates = 0
  #sequence = 0
  #finishedAttach: ((error: AppError | Error | undefined) => void) | undefined
  /** Devices were asked for and are not here yet. The attach that asked may be over by then, and another one wait for them. */
  #isOpening = false
  /** Of the attach at hand; what an earlier one had under way means nothing any more. */
  #reader: MetadataReader | undefined
  sentBytes = 0
  receivedBytes = 0
  readonly diskTraffic = new DiskTraffic()
  activityLogWrites = 0
  bitmapWrites = 0

  constructor(engine: Engine, settings: VolumeSettings) {
    this.engine = engine
    this.settings = settings
    this.number = settings.volume
    this.userSectors = settings.sizeSectors
    this.io = new VolumeIo(this)
    this.negotiation = new Negotiation(this)
    this.resyncBounds = new ResyncBounds(this)
  }

  // ---- conditions ------------------------------------------------------------------------------------------------------

  /** Out-of-sync bits; undefined while no disk is attached. */
  get bitmap(): Bitmap | undefined {
    return this.#bitmap
  }

  get store(): MetadataStore | undefined {
    return this.#store
  }

  /** Bitmap and store of an attached disk. */
  get attached(): { readonly bitmap: Bitmap; readonly store: MetadataStore } {
    assert(this.#bitmap !== undefined && this.#store !== undefined, 'a disk is attached')
    return { bitmap: this.#bitmap, store: this.#store }
  }

  get suspended(): boolean {
    return this.state.susp || this.state.suspNod || this.state.suspFen
  }

  /** Writes go to the peer with their data (wire-protocol.md 6.1). */
  get replicates(): boolean {
    const { conn, pdsk } = this.state
    if (conn < C_CONNECTED) return false
    return pdsk === D_UPTODATE || (pdsk >= D_INCONSISTENT && conn >= C_WF_BITMAP_T && conn < C_AHEAD)
  }

  /** The peer is told of writes that it does not get. */
  get sendsOutOfSync(): boolean {
    return this.state.conn === C_AHEAD || this.state.conn === C_WF_BITMAP_S
  }

  /** A superblock that has to be durable before anything else happens is being written. */
  get isGated(): boolean {
    return this.#gates > 0
  }

  get holdsReads(): boolean {
    const { conn, disk } = this.state
    if (this.suspended || this.#gates > 0 || disk === D_ATTACHING || disk === D_NEGOTIATING) return true
    // About to be a target: what is out of date here is not known yet, while the source may answer its writes already.
    return conn === C_WF_BITMAP_T || conn === C_WF_SYNC_UUID
  }

  get holdsWrites(): boolean {
    return this.holdsReads || this.state.conn === C_STARTING_SYNC_T
  }

  /** The peer is Primary, or may be without our knowing: it has not told its role since the handshake. */
  get peerMayWrite(): boolean {
    return this.state.peer !== R_SECONDARY || !this.negotiation.peerConnected
  }

  /** This host takes over the peer's data, now or as soon as bitmaps are exchanged. */
  get isTarget(): boolean {
    const { conn } = this.state
    return conn === C_WF_BITMAP_T || conn === C_WF_SYNC_UUID || conn === C_SYNC_TARGET || conn === C_PAUSED_SYNC_T
  }

  /** Whether a write that the peer does not have may be answered. */
  get mayCompleteAlone(): boolean {
    return this.mayWriteAlone && !this.io.resync.awaitsTarget
  }

  /**
   * Whether this host's data count, whatever the peer has: its metadata says, durably, that it went on alone, so a later
   * handshake cannot take the peer's data for equal or newer.
   */
  get mayWriteAlone(): boolean {
    if (this.suspended || this.#gates > 0 || this.#newUuidPending) return false
    if (this.state.disk !== D_UPTODATE) return false
    return this.uuids.bitmap !== 0n || this.state.pdsk <= D_INCONSISTENT || this.state.conn === C_AHEAD
  }

  /**
   * Whether a write that is on the peer only, or a flush of the peer only, may not be answered yet, even if the peer had
   * acknowledged it before it knew that: a crash of both would leave two disks of one generation, and ours could be the source.
   */
  get awaitsPeer(): boolean {
    return this.#awaitsPeer && this.state.conn >= C_CONNECTED && this.state.pdsk === D_UPTODATE
  }

  /**
   * Whether what is on the peer's disk alone may be answered: not if this host, without a disk by now, was the source of its
   * resync. The own disk would be the source again, and overwrite it.
   */
  get peerCopiesCount(): boolean {
    const { conn, disk, pdsk } = this.state
    return conn !== C_CONNECTED || disk === D_UPTODATE || pdsk === D_UPTODATE
  }

  get dataAccessible(): boolean {
    return (
      this.suspended ||
      this.state.disk === D_UPTODATE ||
      this.state.pdsk === D_UPTODATE ||
      this.state.conn > C_CONNECTED
    )
  }

  /** Both disks UpToDate and no block out of sync. */
  get allInSync(): boolean {
    return this.state.disk === D_UPTODATE && this.state.pdsk === D_UPTODATE && this.#bitmap?.count === 0
  }

  readsLocally(sector: number, sectors: number): boolean {
    const { disk, conn } = this.state
    if (disk === D_UPTODATE) return true
    if (disk !== D_INCONSISTENT || (conn !== C_SYNC_TARGET && conn !== C_PAUSED_SYNC_T)) return false
    const [from, to] = blocksTouched(sector, sectors)
    return this.#bitmap !== undefined && !this.#bitmap.anySet(from, to)
  }

  inRange(sector: number, sectors: number): boolean {
    return sector >= 0 && sectors >= 0 && sector + sectors <= this.sizeSectors
  }

  isHole(sector: number, sectors: number): boolean {
    return this.#devices?.isHole(sector * 512, sectors * 512) ?? false
  }

  get volumeNumber(): number {
    return this.number
  }

  get writeGeneration(): number {
    return this.stability?.writeGeneration ?? 0
  }

  get stableGeneration(): number {
    return this.stability?.stableGeneration ?? Number.POSITIVE_INFINITY
  }

  wantStable(): void {
    if (this.replicates) this.io.flushes.requestOwn()
  }

  onLogWritten(): void {
    this.activityLogWrites++
  }

  bitmapWritten(blocks: number): void {
    this.bitmapWrites += blocks
  }

  emit(effect: Effect): void {
    this.engine.emit(effect)
  }

  onPeerFlushed(): void {
    this.stability?.flushDone()
    this.activity?.onStable()
  }

  /** Numbers per volume and direction, shared by both streams (wire-protocol.md 3.4). */
  nextSequence(): number {
    this.#sequence = (this.#sequence + 1) >>> 0
    return this.#sequence
  }

  resetSequence(): void {
    this.#sequence = 0
  }

  // ---- attach and detach -------------------------------------------------------------------------------------------------

  attach(done: (error: AppError | Error | undefined) => void): void {
    this.#finishedAttach = done
    this.change({ disk: D_ATTACHING }, 'attach')
    if (this.#isOpening) return
    this.#isOpening = true
    this.emit({ type: 'devices.open', volume: this.number })
  }

  onDevicesOpened(devices: OpenedDevices): void {
    this.#isOpening = false
    if (this.state.disk !== D_ATTACHING) {
      this.emit({ type: 'devices.close', volume: this.number })
      return
    }
    this.#devices = devices
    const emit = (effect: Effect): void => this.engine.emit(effect)
    try {
      const reader = new MetadataReader(this.number, devices, emit, (error, metadata) => {
        if (this.#reader !== reader) return
        this.#reader = undefined
        if (error !== undefined || metadata === undefined) this.#abortAttach(error ?? new Error('no metadata'))
        else this.#onMetadata(metadata, devices)
      })
      this.#reader = reader
      reader.start()
    } catch (cause) {
      this.#abortAttach(cause as Error)
    }
  }

  onDevicesFailed(error: Error): void {
    this.#isOpening = false
    if (this.state.disk === D_ATTACHING) this.#failAttach(error)
  }

  #abortAttach(error: Error): void {
    this.#devices = undefined
    this.#reader = undefined
    this.emit({ type: 'devices.close', volume: this.number })
    this.#failAttach(error)
  }

  #failAttach(error: Error): void {
    this.#finishAttach(error)
    this.change({ disk: D_DISKLESS }, 'attach failed')
  }

  #finishAttach(error: Error | undefined): void {
    const done = this.#finishedAttach
    this.#finishedAttach = undefined
    done?.(error)
  }

  #onMetadata(metadata: AttachedMetadata, devices: OpenedDevices): void {
    const { superblock } = metadata
    const { conn, role } = this.state
    const uuids = uuidsFound(superblock, this.exposed)
    const isForeign = role === R_PRIMARY && !this.exposed.mayServeOwn(uuids.current)
    if (isForeign && conn < C_CONNECTED) {
      this.#abortAttach(new DriverError(150, 'the disk holds another generation than the one that clients saw last'))
      return
    }
    this.#metadata = metadata
    this.usableSectors = capped(metadata.usableSectors, this.userSectors)
    const sectors =
      superblock.laSizeSectors > 0 ? Math.min(superblock.laSizeSectors, metadata.usableSectors) : this.usableSectors
    this.uuids = uuids
    this.crashedPrimary = (superblock.flags & (MDF_PRIMARY_IND | MDF_CRASHED_PRIMARY)) !== 0
    this.#fullSync = (superblock.flags & MDF_FULL_SYNC) !== 0
    this.allZero = superblock.current === UUID_JUST_CREATED && devices.isHole(0, sectors * 512)
    this.sizeSectors = sectors
    this.#bitmap = bitmapOf(metadata, sectors)
    if (this.#fullSync) this.#bitmap.setAll()
    this.stability = new Stability(this.#bitmap.bits)
    this.#store = new MetadataStore(this, metadata.layout, metadata.geometry, devices.metaIndex !== 'internal')
    this.activity = new ActivityLog(this, alExtentsClamped(this.settings.alExtents, metadata.geometry))
    if (metadata.hotExtents.length > 0) {
      const marked = `${metadata.hotExtents.length} extents marked out of sync, ${this.#bitmap.count} blocks in all`
      this.engine.log('info', `activity log of a crashed Primary: ${marked}`, this.number)
    }
    this.attachDisk = DISK_OF_NAME.get(diskStateFromFlags(superblock.flags)) ?? D_INCONSISTENT
    const isNewest = this.engine.settings.fencing === 'dont-care' || this.state.pdsk === D_OUTDATED
    if (this.attachDisk === D_CONSISTENT && isNewest) this.attachDisk = D_UPTODATE
    // The connection may be lost before the peer says what is newer there: then nobody may take these data for the newest.
    const isOld = isForeign || this.exposed.hasOutdated(uuids.current)
    if (isOld && this.attachDisk > D_OUTDATED) this.attachDisk = D_OUTDATED
    const written = (error: DiskError | undefined): void => {
      if (error === undefined) this.#onAttachWritten(superblock)
    }
    if (superblock.laSizeSectors !== sectors || this.#fullSync) {
      // First attach: the size and a full bitmap have to be on disk before the log is used (metadata.md 10.2).
      this.#store.writeBitmap(this.#bitmap, 'all')
      this.#fullSync = false
    }
    this.#store.writeSuperblock(written)
    this.engine.statusChanged()
  }

  #onAttachWritten(superblock: Superblock): void {
    this.exposed.clear()
    const peerOutdated = (superblock.flags & MDF_PEER_OUTDATED) !== 0
    if (this.state.conn >= C_CONNECTED) {
      this.change({ disk: D_NEGOTIATING }, 'attached')
      this.negotiation.announceAttach()
    } else this.change({ disk: this.attachDisk, ...(peerOutdated ? { pdsk: D_OUTDATED } : {}) }, 'attached')
    this.#finishAttach(undefined)
  }

  /** Gives the disk up. What is at the disk completes into the void. */
  detach(reason: string): void {
    if (this.state.disk === D_DISKLESS) return
    const { conn, disk, pdsk } = this.state
    if (disk === D_UPTODATE) {
      const alsoOnPeer = conn >= C_CONNECTED && pdsk === D_UPTODATE
      this.exposed.onOwnLost(this.uuids, { unsaved: this.#gates > 0, alsoOnPeer })
      this.#awaitsPeer = alsoOnPeer && this.engine.connection.coprimePeer
    } else if (disk >= D_INCONSISTENT) {
      this.negotiation.exposePeer()
      if (disk <= D_OUTDATED) this.exposed.onOldLost()
    }
    this.#finishAttach(new Error(`given up before the disk was attached: ${reason}`))
    this.#reader = undefined
    this.change({ disk: D_FAILED }, reason)
    this.change({ disk: D_DISKLESS }, reason)
    const waiting = this.activity?.close() ?? []
    const store = this.#store
    this.activity = undefined
    this.#store = undefined
    this.#bitmap = undefined
    this.stability = undefined
    this.#devices = undefined
    this.#written = undefined
    this.usableSectors = 0
    this.#gates = 0
    this.resyncBounds.forget()
    this.inSyncUnsaved = false
    store?.close()
    if (!this.#isOpening) this.emit({ type: 'devices.close', volume: this.number })
    this.#whenOpen()
    for (const user of waiting) user.onActivityGranted()
  }

  /** A clean end: bitmap and superblock are durable before the devices are closed. */
  closeDisk(done: () => void): void {
    if (this.#store === undefined || this.#bitmap === undefined) {
      // At most about to be attached: that ends.
      this.detach('down')
      done()
      return
    }
    this.#store.writeBitmap(this.#bitmap, 'changed')
    this.#store.writeSuperblock(() => {
      this.detach('down')
      done()
    })
  }

  onDataError(error: DiskError, what: 'read' | 'write' | 'flush'): void {
    if (this.state.disk <= D_FAILED) return
    this.engine.log('error', `${what} failed on the own disk (${error.code}: ${error.message})`, this.number)
    if (this.settings.onIoError === 'pass_on' && this.state.disk > D_INCONSISTENT && what !== 'read') {
      this.change({ disk: D_INCONSISTENT }, 'I/O error')
    } else if (this.settings.onIoError !== 'pass_on') this.detach('I/O error')
  }

  onMetadataError(error: DiskError): void {
    const { disk } = this.state
    if (disk === D_DISKLESS || disk === D_FAILED) return
    const { code, message } = error
    this.engine.log('error', `metadata write failed (${code}: ${message}); the disk is given up`, this.number)
    if (disk === D_ATTACHING) this.#finishAttach(new Error(error.message))
    this.detach('metadata I/O error')
  }

  // ---- metadata ----------------------------------------------------------------------------------------------------------

  currentSuperblock(): Superblock {
    const metadata = this.#metadata
    assert(metadata !== undefined, 'the superblock is written only while attached')
    const flags = this.#flags(metadata)
    this.#written = { flags, uuids: this.uuids, sizeSectors: this.sizeSectors }
    return {
      ...metadata.superblock,
      ...this.uuids,
      laSizeSectors: this.sizeSectors,
      flags,
      magic: MD_MAGIC_UNCLEAN,
      alExtents: alExtentsClamped(this.settings.alExtents, metadata.geometry),
      peerMaxBioBytes: this.negotiation.peerMaxBioBytes || metadata.superblock.peerMaxBioBytes,
    }
  }

  #flags(metadata: AttachedMetadata): number {
    return superblockFlags(metadata.superblock.flags, this.state, {
      keepsLog: this.#keepsLog,
      crashedPrimary: this.crashedPrimary,
      fullSync: this.#fullSync,
    })
  }

  /** Writes the superblock if it differs from what was last written; called at the end of each turn with a state change. */
  saveIfChanged(): void {
    const metadata = this.#metadata
    if (this.#store === undefined || metadata === undefined || this.state.disk < D_INCONSISTENT) return
    const written = this.#written
    if (
      written !== undefined &&
      written.flags === this.#flags(metadata) &&
      written.uuids === this.uuids &&
      written.sizeSectors === this.sizeSectors
    )
      return
    this.#store.writeSuperblock()
  }

  /** The log of a diskless Primary's writes is not needed any more as soon as none is under way and the bitmap is on disk. */
  forgetLog(): void {
    if (!this.#keepsLog || this.#isOnlyDisk) return
    if (this.#store === undefined || this.#bitmap === undefined) {
      this.#keepsLog = false
      return
    }
    this.#store.writeBitmap(this.#bitmap, 'changed', () => {
      if (this.#isOnlyDisk) return
      this.#keepsLog = false
      this.engine.stateChanged()
    })
  }

  get #isOnlyDisk(): boolean {
    const { peer, pdsk } = this.state
    return (peer === R_PRIMARY && pdsk < D_INCONSISTENT) || this.io.peer.hasOnlyCopies
  }

  /** Writes the superblock; new writes, and completions that the peer has no part in, wait for it. */
  saveBeforeGoingOn(done?: () => void): void {
    if (this.#store === undefined) {
      done?.()
      return
    }
    this.#gates++
    this.#store.writeSuperblock((error) => {
      // If it failed the disk is given up, and the gates with it.
      if (error === undefined) this.#gates--
      done?.()
      this.#whenOpen()
    })
  }

  #whenOpen(): void {
    if (this.#gates > 0 || this.suspended) return
    this.io.completeParked()
    this.io.releaseHeld()
    this.io.pumpNeeded = true
  }

  setUuids(uuids: Uuids): void {
    this.uuids = uuids
    this.engine.statusChanged()
  }

  newCurrentUuid(): void {
    this.#newUuidPending = false
    this.setUuids(newCurrent(this.uuids, this.engine.entropy.u64(), this.state.role === R_PRIMARY))
    this.engine.log('info', "new current UUID: this host goes on without the peer's data", this.number)
    this.#saveAndTell()
  }

  #saveAndTell(): void {
    const session = this.engine.connection.session
    this.saveBeforeGoingOn(() => {
      // Not before it is durable: a diskless peer takes up no other generation than the one it was told of.
      const isSame = session === this.engine.connection.session && this.state.conn >= C_CONNECTED
      if (isSame && this.#store !== undefined) this.negotiation.sendUuids(0)
    })
  }

  /** The administrator's new generation while StandAlone; `clear`: it differs from the old one in nothing. */
  rotateToNewCurrent(clear: boolean): void {
    const { bitmap, store } = this.attached
    this.setUuids(
      newCurrent(setAndRotateBitmap(this.uuids, 0n), this.engine.entropy.u64(), this.state.role === R_PRIMARY),
    )
    if (clear) {
      bitmap.clearAll()
      store.writeBitmap(bitmap, 'all')
    }
    this.saveBeforeGoingOn()
  }

  /** Every block is to be transferred: durable as FullSync until the bitmap itself is on disk. */
  setAllOutOfSync(): void {
    const { bitmap, store } = this.attached
    bitmap.setAll()
    this.#fullSync = true
    store.writeSuperblock()
    store.writeBitmap(bitmap, 'all', (error) => {
      if (error !== undefined) return
      this.#fullSync = false
      store.writeSuperblock()
    })
  }

  /** Both disks hold the same (nothing): no bit is set, one common new generation (5.2, skip-initial-sync). */
  declareInSync(current: bigint): void {
    const { bitmap, store } = this.attached
    bitmap.clearAll()
    this.allZero = false
    this.setUuids({
      current: withPrimaryBit(current, this.state.role === R_PRIMARY),
      bitmap: 0n,
      history1: 0n,
      history2: 0n,
    })
    // What the peer sent last was of the time before: it makes the same generation its own.
    this.negotiation.peerTookOver(this.uuids)
    store.writeBitmap(bitmap, 'all')
    this.change(
      { disk: D_UPTODATE, ...(this.state.conn >= C_CONNECTED ? { pdsk: D_UPTODATE } : {}) },
      'no initial sync needed',
    )
    this.inSyncUnsaved = true
    this.saveBeforeGoingOn(() => {
      this.inSyncUnsaved = false
    })
  }

  /** A new wish for the size; the size itself changes when the peer's disk is known to be as large. */
  setUserSize(sectors: number): void {
    this.userSectors = sectors
    if (this.#metadata !== undefined) this.usableSectors = capped(this.#metadata.usableSectors, sectors)
  }

  /** Takes over a new device size; new space counts as out of sync unless `clean`. */
  resize(sectors: number, clean: boolean): void {
    if (sectors === this.sizeSectors) return
    const old = this.#bitmap
    this.engine.log('info', `size is ${sectors} sectors now, it was ${this.sizeSectors}`, this.number)
    this.sizeSectors = sectors
    const store = this.#store
    if (store === undefined || old === undefined) {
      this.engine.statusChanged()
      return
    }
    const bitmap = new Bitmap(Math.ceil(sectors / 8))
    copySetBits(old, bitmap)
    if (!clean && bitmap.bits > old.bits) bitmap.set(old.bits, bitmap.bits)
    this.#bitmap = bitmap
    this.stability?.resize(bitmap.bits)
    this.#fullSync = true
    store.writeSuperblock()
    store.writeBitmap(bitmap, 'all', () => {
      this.#fullSync = false
      store.writeSuperblock()
    })
    this.engine.statusChanged()
  }

  // ---- state -------------------------------------------------------------------------------------------------------------

  /** The state that a wanted change leads to, with all that it implies (wire-protocol.md 9.4). */
  implied(patch: Partial<StateWord>): StateWord {
    return sanitize({ ...this.state, ...patch }, this.state, {
      fencing: FENCING_NUMBER[this.engine.settings.fencing],
      onNoDataSuspend: this.engine.settings.onNoDataAccessible === 'suspend-io',
      attachDisk: this.attachDisk,
      exposedMatches: true,
      peerConnected: this.negotiation.peerConnected,
    })
  }

  change(patch: Partial<StateWord>, reason: string): void {
    const old = this.state
    // Of a target that may be UpToDate nobody knows that it does not go on.
    const leavesTarget = patch.conn !== undefined && patch.conn < C_CONNECTED && this.io.resync.targetMayBeUpToDate
    const next = this.implied(leavesTarget ? { ...patch, pdsk: D_UNKNOWN } : patch)
    if (sameState(old, next)) return
    const oldReplicates = this.replicates
    this.state = next
    this.engine.log('debug', `${describe(old, next)} (${reason})`, this.number)
    if (oldReplicates !== this.replicates) this.engine.connection.epochs.close()
    if (old.conn !== next.conn) this.connSinceMs = this.engine.nowMs
    if (old.disk !== next.disk) this.diskSinceMs = this.engine.nowMs
    if (old.pdsk !== next.pdsk) this.pdskSinceMs = this.engine.nowMs
    if (next.peer === R_PRIMARY && next.pdsk < D_INCONSISTENT) this.#keepsLog = true
    else this.forgetLog()
    this.#afterChange(old, next)
    // The peer's disk is back, and the connection was never lost: who waited for it goes on.
    if (!oldReplicates && this.replicates && old.conn >= C_CONNECTED && !this.io.hasDoubts) this.io.restartParked()
    this.engine.stateChanged()
  }

  #afterChange(old: StateWord, next: StateWord): void {
    if (isDiskLost(old.disk, next.disk) || isDiskLost(old.pdsk, next.pdsk)) {
      this.disksLost++
      this.negotiation.onDiskLost()
    }
    if (next.disk === D_UPTODATE && next.pdsk === D_UPTODATE) this.crashedPrimary = false
    if (old.conn >= C_CONNECTED && next.conn < C_CONNECTED) this.#onPeerLost(old, next)
    else if (lostPeerData(old.pdsk, next.pdsk) || isNewWriterHere(old, next)) {
      // In a handshake it may find that it has seen newer ones: then it leaves, and has written nothing here.
      this.#newUuidWhenTaken = old.conn < C_CONNECTED && next.role !== R_PRIMARY
      if (!this.#newUuidWhenTaken) this.#onPeerDataLost(next)
    }
    if (old.role !== next.role && this.uuids.current !== 0n) {
      this.setUuids({ ...this.uuids, current: withPrimaryBit(this.uuids.current, next.role === R_PRIMARY) })
    }
    this.#announce(old, next)
    if (isSyncing(old.conn) && !isSyncing(next.conn)) this.io.resync.stop()
    if (old.conn < C_CONNECTED && next.conn >= C_CONNECTED) this.#onConnected()
    if (old.conn !== next.conn && (next.conn === C_WF_BITMAP_S || next.conn === C_WF_BITMAP_T))
      this.io.resync.awaitBitmap()
    if (old.conn !== C_WF_BITMAP_S && next.conn === C_WF_BITMAP_S) this.io.resync.sendBitmap()
    if (!isSyncing(old.conn) && isSyncing(next.conn)) this.io.resync.start()
    if (isVerifying(old.conn) && !isVerifying(next.conn)) this.io.verify.stop()
    if (!isVerifying(old.conn) && isVerifying(next.conn)) this.io.verify.start()
    if (old.conn === C_PAUSED_SYNC_T && next.conn === C_SYNC_TARGET) this.io.resync.advance()
    const wasSuspended = old.susp || old.suspFen || old.suspNod
    if (wasSuspended && !this.suspended && this.#newUuidPending) this.newCurrentUuid()
    this.#maybeThaw()
    this.#whenOpen()
  }

  #announce(old: StateWord, next: StateWord): void {
    if (isForPeer(old, next, this.engine.connection.apv)) this.negotiation.sendState()
    if (hasPeersDiskAppeared(old, next)) {
      this.negotiation.sendUuids(0)
      this.negotiation.sendState()
    }
  }

  #onConnected(): void {
    // Frozen writes of a host that never went on alone are sent again; the resync of rule 42 equals what they left behind.
    if (this.state.suspFen) {
      // With its disk it is as it was; without it this host goes on alone all the same.
      if (this.state.pdsk >= D_INCONSISTENT) this.#newUuidPending = false
      this.change({ suspFen: false }, 'the peer is back')
    }
    const { conn, disk, pdsk } = this.state
    // What is parked is complete as soon as this host may go on alone; it is not written again over what came after it.
    const goesOnAlone = disk === D_UPTODATE && pdsk < D_INCONSISTENT
    if (goesOnAlone || this.mayCompleteAlone || conn === C_WF_BITMAP_S) return
    // A source completes what is parked as soon as the resync has begun; a target, or who has no disk, asks what became of it.
    if (this.state.suspNod && this.#lostPrimary && this.state.peer !== R_PRIMARY) this.io.failDoubts()
    this.#lostPrimary = false
    const asks = this.state.conn === C_WF_BITMAP_T || (this.state.disk < D_INCONSISTENT && this.io.hasDoubts)
    if (asks && this.engine.connection.coprimePeer) this.io.askInDoubt()
    else this.io.restartParked()
  }

  /** Frozen for want of data (on-no-data-accessible suspend-io), and there are data again, here or on the peer. */
  #maybeThaw(): void {
    const { suspNod, role, disk, pdsk } = this.state
    if (!suspNod || (role === R_PRIMARY && disk !== D_UPTODATE && pdsk !== D_UPTODATE)) return
    this.change({ suspNod: false }, 'there are UpToDate data again')
    if (!this.suspended && !this.io.hasDoubts) this.io.restartParked()
  }

  #onPeerLost(old: StateWord, next: StateWord): void {
    if (this.#bitmap !== undefined) {
      const marked = this.stability?.peerLost(this.#bitmap) ?? 0
      const what = 'blocks that the peer may not have on stable storage are out of sync'
      if (marked > 0) this.engine.log('info', `${marked} ${what}`, this.number)
    }
    this.engine.timers.clear(`peer-flush-${this.number}`)
    this.#newUuidWhenTaken = false
    if (lostPeerData(old.pdsk, next.pdsk)) this.#onPeerDataLost(next)
    if (old.peer === R_PRIMARY) this.#lostPrimary = true
    this.io.onPeerLost()
    this.activity?.onStable()
    this.#awaitsPeer = false
    this.negotiation.onPeerLost()
    if (this.#store !== undefined && this.#bitmap !== undefined) this.#store.writeBitmap(this.#bitmap, 'changed')
    if (next.role === R_PRIMARY && next.pdsk > D_OUTDATED) this.engine.onPrimaryLostPeer()
  }

  /** The peer has told that it is Connected, too; what it writes comes after that. */
  onPeerConnected(): void {
    this.change({}, 'the peer takes these data')
    if (!this.#newUuidWhenTaken) return
    this.#newUuidWhenTaken = false
    if (this.state.pdsk < D_INCONSISTENT) this.#onPeerDataLost(this.state)
  }

  /** The target of the resync is Inconsistent for certain: what waited for that is complete. */
  onTargetHasBegun(): void {
    this.#whenOpen()
  }

  /** The peer's metadata say that its data are newer than those of any other disk. */
  onPeerIsAhead(): void {
    if (!this.#awaitsPeer) return
    this.#awaitsPeer = false
    this.io.completeParked()
  }

  #onPeerDataLost(next: StateWord): void {
    if (next.disk !== D_UPTODATE) return
    if (next.role !== R_PRIMARY && next.peer !== R_PRIMARY) return
    if (this.uuids.bitmap !== 0n) {
      // What we have is known to be newer already: a peer of ours only waits to hear that it is durable.
      if (next.conn >= C_CONNECTED && this.engine.connection.coprimePeer) this.#saveAndTell()
    } else if (this.suspended) this.#newUuidPending = true
    else this.newCurrentUuid()
  }

  /** What a fence-peer handler found out (config-and-tools.md 1.8). */
  onFenced(exitCode: number): void {
    if (this.state.conn >= C_CONNECTED) return
    const finding = fencingFinding(exitCode, this.state)
    if (typeof finding === 'string') this.engine.log('error', finding, this.number)
    else if (finding !== undefined) this.change(finding.change, `fence-peer: ${finding.reason}`)
  }

  /** The administrator vouches for the peer being out of the game. */
  resumeIo(): void {
    this.change({ susp: false, suspFen: false, suspNod: false }, 'resume-io')
  }

  markOutOfSync(sector: number, sectors: number): void {
    const [from, to] = blocksTouched(sector, sectors)
    this.#bitmap?.set(from, to)
  }

  // ---- status ------------------------------------------------------------------------------------------------------------

  status(): VolumeStatus {
    return volumeStatus(this)
  }
}
