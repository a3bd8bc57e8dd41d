// Plays one of the two recorded kernels with our engine: it gets what the other kernel sent, byte for byte but for the handles
// below, and what its own users did (writes, reads, commands), as the recording shows it. What is determined by that must be
// answered as the recorded kernel answered.
//
//   recorded packet of the other node    fed, when the engine is where the recorded kernel was
//   recorded packet of our node          what its user asked for: asked of the engine; an answer: kept, to be compared
//
// Not determined, and so translated: the handles of our requests, the numbers of our epochs, how a target cuts its resync
// requests (they are answered out of what the recorded source sent), random generation identifiers.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { Prng } from '../../../src/base/prng.ts'
import type { Entropy } from '../../../src/runtime/ports.ts'
import { EngineHost } from '../../support/engine-driver.ts'
import { ScriptedPeer } from '../../support/scripted-peer.ts'
import { SystemDigests } from '../../../src/adapters/system-digests.ts'
import { MDF_AL_CLEAN, MDF_CONSISTENT, MDF_CRASHED_PRIMARY, MDF_WAS_UPTODATE } from '../../../src/meta/superblock.ts'
import { BitmapReceiver } from '../../../src/wire/drbd/bitmap-codec.ts'
import {
  C_CONNECTED,
  C_DISCONNECTING,
  C_STARTING_SYNC_S,
  C_STARTING_SYNC_T,
  C_VERIFY_S,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_OUTDATED,
  DP_DISCARD,
  DP_FUA,
  R_PRIMARY,
  R_SECONDARY,
  UF_CRASHED_PRIMARY,
  UF_DISCARD_MY_DATA,
} from '../../../src/wire/drbd/constants.ts'
import type { Packet, PacketOf } from '../../../src/wire/drbd/packets.ts'
import { decodeStateWord, type StateWord } from '../../../src/wire/drbd/state-word.ts'
import { type Node, replay, type SeenPacket } from './replay.ts'

const SYNCER = 0xffffffff
/** Algorithm and secret are not on the wire. */
const SECRETS = new Map(
  [
    ['11-auth-sha1', 'sha1'],
    ['11b-auth-sha256', 'sha256'],
  ].map(([capture = '', cramHmacAlg = '']) => [capture, { cramHmacAlg, sharedSecret: 'kernel-peer-secret' }]),
)
const OUT_OF_SYNC = 4712

/** One connection from the features on, with its meta connection. */
export interface Session {
  readonly capture: string
  readonly packets: readonly SeenPacket[]
  /** Who opened the meta connection; the other one holds the resolve-conflicts flag. */
  readonly metaOpener: Node
}

export function sessionsOf(capture: string): Session[] {
  const sessions: { capture: string; packets: SeenPacket[]; metaOpener: Node }[] = []
  const metaOpeners = new Map<number, Node>()
  for (const seen of replay(capture).packets) {
    const { packet, sender, connection, kind } = seen
    if (packet.type === 'P_INITIAL_META') metaOpeners.set(connection, sender)
    if (packet.type === 'P_INITIAL_META' || packet.type === 'P_INITIAL_DATA') continue
    const current = sessions.at(-1)
    const isNew = packet.type === 'P_CONNECTION_FEATURES' && current?.packets[0]?.connection !== connection
    if (isNew) sessions.push({ capture, packets: [seen], metaOpener: [...metaOpeners.values()].at(-1) ?? 'a' })
    else if (current !== undefined) current.packets.push(seen)
    if (kind === 'meta' && current !== undefined) current.metaOpener = metaOpeners.get(connection) ?? current.metaOpener
  }
  return sessions
}

type Request = PacketOf<'P_DATA'> | PacketOf<'P_TRIM'> | PacketOf<'P_ZEROES'> | PacketOf<'P_DATA_REQUEST'>

interface VerifyAsked {
  readonly sector: number
  readonly sizeBytes: number
}

interface ResyncAsked extends VerifyAsked {
  readonly type: Packet['type']
}

export interface Outcome {
  /** By kind of answer: what the recorded kernel said, and what the engine said. */
  readonly recorded: ReadonlyMap<string, readonly string[]>
  readonly engine: ReadonlyMap<string, readonly string[]>
  readonly host: EngineHost
  readonly dropped: string | undefined
}

/** Answers that are determined, as text. Undefined: not one of them. */
function answerText(packet: Packet): readonly [kind: string, text: string] | undefined {
  switch (packet.type) {
    case 'P_RECV_ACK':
    case 'P_WRITE_ACK':
    case 'P_RS_WRITE_ACK':
    case 'P_SUPERSEDED':
    case 'P_RETRY_WRITE':
    case 'P_NEG_ACK':
      // Those of resync data depend on how the target cut its requests.
      if (packet.blockIdHi === SYNCER && packet.blockIdLo === SYNCER) return undefined
      return ['acknowledgements', `${packet.type} ${packet.sector}+${packet.sizeBytes} ${packet.blockIdHi}:${packet.blockIdLo}`]
    case 'P_BARRIER_ACK':
      return ['barriers', `${packet.barrier} ${packet.setSize}`]
    case 'P_STATE_CHG_REPLY':
    case 'P_CONN_ST_CHG_REPLY':
      return ['replies', `${packet.type} ${packet.code}`]
    case 'P_DATA_REPLY':
      return ['reads', `${packet.sector} ${hash(packet.payload)}`]
    case 'P_RS_DATA_REPLY':
      return ['resync data', `${packet.sector}+${packet.payload.length} ${hash(packet.payload)}`]
    case 'P_RS_IS_IN_SYNC':
      return ['resync data', `${packet.sector}+${packet.sizeBytes} equal`]
    case 'P_RS_DEALLOCATED':
      return ['resync data', `${packet.sector}+${packet.sizeBytes} hole`]
    case 'P_OV_REPLY':
      return ['verify', `${packet.sector}+${packet.sizeBytes}`]
    case 'P_OV_RESULT':
      return ['verify results', `${packet.sector} ${packet.blockIdLo}`]
    case 'P_STATE':
      return ['states', describeState(decodeStateWord(packet.state))]
    case 'P_SIZES':
      // The own disk is told as the option `size` caps it: not compared.
      return ['sizes', `${packet.currentSectors} ${packet.userSectors}`]
    case 'P_AUTH_RESPONSE':
      return ['authentication', hash(packet.payload)]
    case 'P_PROTOCOL':
      return ['protocol', JSON.stringify({ ...packet, connFlags: 0 })]
    default:
      return undefined
  }
}

const describeState = ({ role, peer, conn, disk, pdsk }: StateWord): string =>
  `role ${role}/${peer} conn ${conn} disk ${disk}/${pdsk}`

const hash = (bytes: Uint8Array): string => createHash('sha1').update(bytes).digest('hex').slice(0, 12)

/** Random, but for a challenge that a recording gives: the other side's response fits that one. */
class ReplayEntropy implements Entropy {
  readonly #prng = new Prng(1)
  #words: number[] = []

  challengeIs(challenge: Uint8Array): void {
    const bytes = Buffer.from(challenge)
    this.#words = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readUInt32BE(i * 4))
  }

  u32(): number {
    return this.#words.shift() ?? this.#prng.u32()
  }

  u64(): bigint {
    return this.#prng.u64()
  }
}

/** Digests as they are, but for one that a recording gives. */
class ReplayDigests extends SystemDigests {
  next: Uint8Array | undefined

  override digest(algorithm: string, data: Uint8Array): Uint8Array {
    return this.next ?? super.digest(algorithm, data)
  }
}

export class EngineReplay {
  readonly #session: Session
  readonly #us: Node
  readonly #host: EngineHost
  readonly #peer: ScriptedPeer
  readonly #digests = new ReplayDigests()
  readonly #entropy = new ReplayEntropy()
  readonly #recorded = new Map<string, string[]>()
  readonly #engine = new Map<string, string[]>()
  /** What the recorded source sent, and what is equal on both sides, by sector. */
  readonly #source = new Map<number, Uint8Array | 'own'>()
  /** Results that the recorded initiator of a verify came to, by sector. */
  readonly #verdicts = new Map<number, number>()
  /** Found equal by our side as the source of a resync by checksums. */
  readonly #equal = new Set<number>()
  /** Our recorded handles in their order, and the engine's packets for the same requests. */
  readonly #handles = new Map<string, { readonly blockIdHi: number; readonly blockIdLo: number }>()
  readonly #unmapped: Request[] = []
  /** Sent by the engine, not yet by the recorded kernel. */
  readonly #early: Request[] = []
  /** Writes that the other kernel wanted to be sent again. */
  readonly #again = new Set<string>()
  #resyncAsked: ResyncAsked[] = []
  #verifyAsked: VerifyAsked[] = []
  /** Writes of the engine that are not acknowledged by a barrier yet. */
  #epoch: number[] = []
  #epochs: { barrier: number; writes: number[] }[] = []
  readonly #open = new Set<number>()
  #ownState: StateWord | undefined
  #flippedAt: number | undefined

  constructor(session: Session, us: Node) {
    this.#session = session
    this.#us = us
    this.#host = this.#makeHost()
    this.#peer = new ScriptedPeer(this.#host)
  }

  /** One bit of the other side's write at this sector turns on the way. */
  flipBitOfWriteAt(sector: number): void {
    this.#flippedAt = sector
  }

  run(): Outcome {
    this.#learn()
    this.#begin()
    for (const seen of this.#session.packets) {
      if (seen.sender === this.#us) this.#onOurs(seen.packet)
      else this.#onTheirs(seen)
      this.#settle()
    }
    this.#peer.advance(50)
    this.#settle()
    const { connection } = this.#host.engine
    return {
      recorded: this.#recorded,
      engine: this.#engine,
      host: this.#host,
      dropped: connection.established ? undefined : connection.reason,
    }
  }

  // ---- the state before -----------------------------------------------------------------------------------------------

  #first<T extends Packet['type']>(type: T, sender: Node): PacketOf<T> | undefined {
    for (const seen of this.#session.packets)
      if (seen.sender === sender && seen.packet.type === type) return seen.packet as PacketOf<T>
    return undefined
  }

  #makeHost(): EngineHost {
    const us = this.#us
    const protocol = this.#first('P_PROTOCOL', us)
    const sizes = this.#first('P_SIZES', us)
    const uuids = this.#first('P_UUIDS', us)
    const state = decodeStateWord(this.#first('P_STATE', us)?.state ?? 0)
    const sync = this.#first('P_SYNC_PARAM89', us) ?? this.#first('P_SYNC_PARAM', us)
    assert.ok(protocol !== undefined && sizes !== undefined, 'the session has a handshake')
    const sectors = Math.max(sizes.backingSectors, sizes.currentSectors)
    const flags =
      MDF_AL_CLEAN |
      (state.disk >= D_OUTDATED ? MDF_CONSISTENT : 0) |
      (state.disk >= D_CONSISTENT ? MDF_WAS_UPTODATE : 0) |
      (((uuids?.uuidFlags ?? 0) & UF_CRASHED_PRIMARY) !== 0 ? MDF_CRASHED_PRIMARY : 0)
    const { current = 4n, bitmap = 0n, history1 = 0n, history2 = 0n } = uuids ?? {}
    const laSizeSectors = sizes.currentSectors
    return new EngineHost({
      digests: this.#digests,
      entropy: this.#entropy,
      settings: {
        protocol: 'ABC'[protocol.protocol - 1] as 'A' | 'B' | 'C',
        afterSb0p: protocol.afterSb0p,
        afterSb1p: protocol.afterSb1p,
        afterSb2p: protocol.afterSb2p,
        allowTwoPrimaries: protocol.twoPrimaries === 1,
        dataIntegrityAlg: protocol.integrityAlg,
        verifyAlg: sync?.verifyAlg ?? '',
        csumsAlg: sync !== undefined && 'csumsAlg' in sync ? sync.csumsAlg : '',
        koCount: 0,
        ...SECRETS.get(this.#session.capture),
      },
      volumes: [
        {
          dataSectors: sectors,
          superblock: { current, bitmap, history1, history2, flags, laSizeSectors },
          settings: { sizeSectors: sizes.userSectors },
        },
      ],
    })
  }

  /** What the recording tells of both disks, and of results. */
  #learn(): void {
    const written = new Set<number>()
    for (const { packet, sender } of this.#session.packets) {
      if (packet.type === 'P_RS_IS_IN_SYNC' && sender === this.#us) this.#equal.add(packet.sector)
      if (packet.type === 'P_OV_RESULT') this.#verdicts.set(packet.sector, packet.blockIdLo)
      if (packet.type === 'P_DATA') for (const sector of sectorsOf(packet.sector, packet.payload.length)) written.add(sector)
      if (sender !== this.#us || (packet.type !== 'P_RS_DATA_REPLY' && packet.type !== 'P_DATA_REPLY')) continue
      for (const [i, sector] of [...sectorsOf(packet.sector, packet.payload.length)].entries()) {
        if (written.has(sector)) continue
        written.add(sector)
        this.#host.data.write(sector * 512, packet.payload.subarray(i * 512, (i + 1) * 512))
      }
    }
  }

  #begin(): void {
    const host = this.#host
    const us = this.#us
    const uuids = this.#first('P_UUIDS', us)
    const state = decodeStateWord(this.#first('P_STATE', us)?.state ?? 0)
    this.#ownState = state
    if (state.disk > D_FAILED) {
      host.attach()
      this.#setBits(uuids?.dirtyBits ?? 0)
    }
    if (state.role === R_PRIMARY) host.promote()
    if (uuids !== undefined && state.disk > D_FAILED) {
      const { current, bitmap, history1, history2 } = uuids
      host.volume.setUuids({ current, bitmap, history1, history2 })
    }
    if (((uuids?.uuidFlags ?? 0) & UF_DISCARD_MY_DATA) !== 0) host.admin({ type: 'connect', discardMyData: true })
    this.#peer.openStreams({ engineHoldsFlag: this.#session.metaOpener !== us })
  }

  /**
   * Our bits before the connection: those of the bitmap that we sent as source. A target sends what both have together: what
   * of it the source does not have is ours, and as many others as are missing.
   */
  #setBits(count: number): void {
    const { bitmap } = this.#host.volume
    if (bitmap === undefined || count === 0) return
    const [first, second] = this.#bitmaps(bitmap.bits)
    if (first === undefined) bitmap.set(0, count)
    else if (first.sender === this.#us) for (const bit of first.bits) bitmap.set(bit, bit + 1)
    else {
      const merged = [...(second?.bits ?? [])]
      const ours = merged.filter((bit) => !first.bits.has(bit))
      const others = merged.filter((bit) => first.bits.has(bit))
      for (const bit of [...ours, ...others].slice(0, count)) bitmap.set(bit, bit + 1)
    }
    assert.equal(bitmap.count, count, 'as many bits as the recorded P_UUIDS says')
  }

  /** The two bitmaps of the first exchange, in their order. */
  #bitmaps(bits: number): { readonly sender: Node; readonly bits: Set<number> }[] {
    const found: { sender: Node; bits: Set<number> }[] = []
    let receiver: BitmapReceiver | undefined
    for (const { packet, sender, context } of this.#session.packets) {
      if (!isBitmap(packet) || found.length > 2) continue
      const current = receiver === undefined ? { sender, bits: new Set<number>() } : found.at(-1)
      if (receiver === undefined && current !== undefined) found.push(current)
      receiver ??= new BitmapReceiver(bits, { apv: context.apv }, (from, to) => {
        for (let bit = from; bit < to; bit++) current?.bits.add(bit)
      })
      if (receiver.onPacket(packet)) receiver = undefined
    }
    return found
  }

  // ---- what the recorded kernel of our side did -------------------------------------------------------------------------

  #onOurs(packet: Packet): void {
    const answer = answerText(packet)
    if (answer !== undefined) push(this.#recorded, answer)
    const host = this.#host
    switch (packet.type) {
      case 'P_DATA':
        if (this.#again.delete(keyOf(packet))) {
          // Not a new write of a client, but one that was to be sent again.
          this.#expect(packet)
          break
        }
        host.write(packet.sector, packet.payload, { fua: (packet.flags & DP_FUA) !== 0 })
        this.#expect(packet)
        break
      case 'P_TRIM':
      case 'P_ZEROES':
        host.zero(packet.sector, packet.sizeBytes / 512, { unmap: (packet.flags & DP_DISCARD) !== 0 })
        this.#expect(packet)
        break
      case 'P_DATA_REQUEST':
        host.read(packet.sector, packet.sizeBytes / 512)
        this.#expect(packet)
        break
      case 'P_STATE_CHG_REQ':
      case 'P_CONN_ST_CHG_REQ':
        this.#onOurRequest(decodeStateWord(packet.mask), decodeStateWord(packet.value))
        break
      case 'P_SIZES':
        if (this.#hasConnected && packet.currentSectors === 0)
          this.#admin({
            type: 'resize',
            volume: 0,
            sizeSectors: packet.userSectors,
            assumeClean: (packet.ddsFlags & 2) !== 0,
          })
        break
      case 'P_STATE':
        this.#onOurState(decodeStateWord(packet.state))
        break
      case 'P_UUIDS':
        if ((packet.uuidFlags & 8) !== 0) this.#admin({ type: 'new-current-uuid', volume: 0, clearBitmap: true })
        break
      default:
        break
    }
  }

  #onOurRequest(mask: StateWord, value: StateWord): void {
    if (mask.role !== 0 && value.role === R_PRIMARY) this.#admin({ type: 'primary', force: mask.disk !== 0 })
    else if (value.conn === C_VERIFY_S)
      this.#admin({ type: 'verify', volume: 0, startSector: 0, stopSector: undefined })
    else if (value.conn === C_STARTING_SYNC_T) this.#admin({ type: 'invalidate', volume: 0 })
    else if (value.conn === C_STARTING_SYNC_S) this.#admin({ type: 'invalidate-remote', volume: 0 })
    else if (value.conn === C_DISCONNECTING) this.#admin({ type: 'disconnect', force: false })
  }

  #onOurState(state: StateWord): void {
    const before = this.#ownState
    this.#ownState = state
    if (before === undefined) return
    if (before.role === R_PRIMARY && state.role === R_SECONDARY) this.#admin({ type: 'secondary' })
    if (before.disk > D_FAILED && state.disk <= D_FAILED) this.#admin({ type: 'detach', volume: 0, force: true })
    if (before.disk <= D_FAILED && before.disk >= D_DISKLESS && state.disk > D_FAILED && !this.#hasDisk)
      this.#admin({ type: 'attach', volume: 0 })
    if (!before.userIsp && state.userIsp) this.#admin({ type: 'pause-sync', volume: 0 })
    if (before.userIsp && !state.userIsp) this.#admin({ type: 'resume-sync', volume: 0 })
  }

  get #hasConnected(): boolean {
    return this.#host.volume.state.conn >= C_CONNECTED
  }

  get #hasDisk(): boolean {
    return this.#host.volume.state.disk > D_FAILED
  }

  #admin(command: Parameters<EngineHost['admin']>[0]): void {
    this.#host.admin(command)
  }

  // ---- what the other kernel sent --------------------------------------------------------------------------------------

  #onTheirs({ packet, kind, context }: SeenPacket): void {
    const peer = this.#peer
    switch (packet.type) {
      case 'P_PING_ACK':
        break // the scripted peer answers pings itself
      case 'P_DATA':
        this.#feed(packet.sector === this.#flippedAt ? flipped(packet) : packet, kind)
        break
      case 'P_CONNECTION_FEATURES':
        this.#entropy.challengeIs(this.#first('P_AUTH_CHALLENGE', this.#us)?.payload ?? new Uint8Array(0))
        peer.onData({ ...packet, ...this.#agreed(packet) })
        break
      case 'P_RS_DATA_REPLY':
        for (const [i, sector] of [...sectorsOf(packet.sector, packet.payload.length)].entries())
          this.#source.set(sector, packet.payload.subarray(i * 512, (i + 1) * 512))
        break
      case 'P_RS_DEALLOCATED':
        for (const sector of sectorsOf(packet.sector, packet.sizeBytes)) this.#source.set(sector, new Uint8Array(512))
        break
      case 'P_RS_IS_IN_SYNC':
        for (const sector of sectorsOf(packet.sector, packet.sizeBytes)) this.#source.set(sector, 'own')
        break
      case 'P_CSUM_RS_REQUEST':
        // What the recorded source found equal is equal here: its contents are not in the recording.
        if (this.#equal.has(packet.sector)) this.#digests.next = packet.digest
        this.#feed(packet, kind)
        this.#digests.next = undefined
        break
      case 'P_OV_REPLY':
        break // answered when the engine asks
      case 'P_BARRIER_ACK':
        this.#acknowledgeEpochs()
        break
      case 'P_RECV_ACK':
      case 'P_WRITE_ACK':
      case 'P_SUPERSEDED':
      case 'P_RETRY_WRITE':
      case 'P_NEG_ACK':
      case 'P_RS_WRITE_ACK':
        this.#onTheirAck(packet)
        break
      case 'P_DATA_REPLY':
      case 'P_NEG_DREPLY':
        this.#feed({ ...packet, ...this.#handleOf(packet) }, kind)
        break
      default:
        this.#feed(packet, kind)
    }
    assert.ok(context.apv >= 80)
  }

  #agreed(packet: PacketOf<'P_CONNECTION_FEATURES'>): Partial<PacketOf<'P_CONNECTION_FEATURES'>> {
    const { apv, features } = this.#session.packets.at(-1)?.context ?? { apv: packet.protocolMax, features: packet.features }
    return { protocolMax: apv, features }
  }

  #onTheirAck(
    packet: PacketOf<'P_RECV_ACK' | 'P_WRITE_ACK' | 'P_SUPERSEDED' | 'P_RETRY_WRITE' | 'P_NEG_ACK' | 'P_RS_WRITE_ACK'>,
  ): void {
    if (packet.blockIdHi === SYNCER && packet.blockIdLo === SYNCER) {
      this.#feed(packet, 'meta')
      return
    }
    const handle = this.#handleOf(packet)
    if (packet.type === 'P_RETRY_WRITE') this.#again.add(`P_DATA ${packet.sector}+${packet.sizeBytes}`)
    if (packet.type !== 'P_RECV_ACK') this.#open.delete(handle.blockIdLo)
    this.#feed({ ...packet, ...handle }, 'meta')
  }

  #handleOf(packet: { blockIdHi: number; blockIdLo: number; type: string }): { blockIdHi: number; blockIdLo: number } {
    const key = `${packet.blockIdHi}:${packet.blockIdLo}`
    const handle = this.#handles.get(key)
    assert.ok(handle !== undefined, `${packet.type} for a request that the engine has not sent`)
    return handle
  }

  #feed(packet: Packet, kind: 'data' | 'meta'): void {
    if (kind === 'data') this.#peer.onData(packet)
    else this.#peer.onMeta(packet)
  }

  // ---- what the engine sent --------------------------------------------------------------------------------------------

  #settle(): void {
    for (let count = -1; count !== 0; ) {
      const sent = this.#peer.take()
      count = sent.length
      for (const { packet } of sent) this.#onEngine(packet)
      this.#answerResync()
      this.#answerVerify()
    }
  }

  #onEngine(packet: Packet): void {
    const answer = answerText(packet)
    if (answer !== undefined) push(this.#engine, answer)
    switch (packet.type) {
      case 'P_DATA':
      case 'P_TRIM':
      case 'P_ZEROES':
        this.#epoch.push(packet.blockIdLo)
        this.#open.add(packet.blockIdLo)
        if (packet.type === 'P_DATA' && packet.payload.length === 0) this.#answerFlush(packet)
        else this.#map(packet)
        break
      case 'P_DATA_REQUEST':
        this.#map(packet)
        break
      case 'P_BARRIER':
        this.#epochs.push({ barrier: packet.barrier, writes: this.#epoch })
        this.#epoch = []
        break
      case 'P_RS_DATA_REQUEST':
      case 'P_RS_THIN_REQ':
      case 'P_CSUM_RS_REQUEST':
        this.#resyncAsked.push(packet)
        break
      case 'P_OV_REQUEST':
        this.#verifyAsked.push(packet)
        break
      default:
        break
    }
  }

  /** The recorded kernel sends a request: its handle stands for that of the engine's same request. */
  #expect(recorded: Request): void {
    const index = this.#early.findIndex((packet) => keyOf(packet) === keyOf(recorded))
    if (index < 0) this.#unmapped.push(recorded)
    else this.#pair(recorded, this.#early.splice(index, 1)[0] as Request)
  }

  #map(packet: Request): void {
    const index = this.#unmapped.findIndex((recorded) => keyOf(recorded) === keyOf(packet))
    if (index < 0) this.#early.push(packet)
    else this.#pair(this.#unmapped.splice(index, 1)[0] as Request, packet)
  }

  #pair(recorded: Request, { blockIdHi, blockIdLo }: Request): void {
    this.#handles.set(`${recorded.blockIdHi}:${recorded.blockIdLo}`, { blockIdHi, blockIdLo })
  }

  /** A kernel sends no flushes: they are answered here. */
  #answerFlush(packet: PacketOf<'P_DATA'>): void {
    this.#open.delete(packet.blockIdLo)
    this.#peer.ack('P_WRITE_ACK', packet, { sizeBytes: 0, sequence: 0 })
  }

  #acknowledgeEpochs(): void {
    this.#settle()
    for (let next = this.#epochs[0]; next !== undefined; next = this.#epochs[0]) {
      const isA = this.#host.settings.protocol === 'A'
      if (!isA && next.writes.some((blockIdLo) => this.#open.has(blockIdLo))) return
      this.#epochs.shift()
      this.#peer.onMeta({ type: 'P_BARRIER_ACK', volume: 0, barrier: next.barrier, setSize: next.writes.length })
    }
  }

  #answerResync(): void {
    const left: ResyncAsked[] = []
    for (const asked of this.#resyncAsked.splice(0)) {
      const sectors = [...sectorsOf(asked.sector, asked.sizeBytes)]
      if (sectors.some((sector) => !this.#source.has(sector))) {
        left.push(asked)
        continue
      }
      const own = this.#host.data.read(asked.sector * 512, asked.sizeBytes)
      const payload = new Uint8Array(own)
      for (const [i, sector] of sectors.entries()) {
        const bytes = this.#source.get(sector)
        if (bytes instanceof Uint8Array) payload.set(bytes, i * 512)
      }
      const head = { volume: 0, sector: asked.sector, blockIdHi: SYNCER, blockIdLo: SYNCER, sequence: 0 }
      if (asked.type === 'P_CSUM_RS_REQUEST' && Buffer.compare(own, payload) === 0)
        this.#peer.onMeta({ type: 'P_RS_IS_IN_SYNC', ...head, sizeBytes: asked.sizeBytes })
      else {
        const digest = this.#host.engine.connection.integrityDigest(payload)
        this.#peer.onData({ type: 'P_RS_DATA_REPLY', ...head, flags: 0, digest, payload })
      }
    }
    this.#resyncAsked.push(...left)
  }

  /** Equal or not, as the recorded initiator found it. */
  #answerVerify(): void {
    const left: VerifyAsked[] = []
    for (const asked of this.#verifyAsked.splice(0)) {
      const verdict = this.#verdicts.get(asked.sector)
      if (verdict === undefined) {
        left.push(asked)
        continue
      }
      const data = this.#host.data.read(asked.sector * 512, asked.sizeBytes)
      if (verdict === OUT_OF_SYNC) data[0] = (data[0] ?? 0) ^ 1
      const { digests, settings } = this.#host.engine
      const digest = digests.digest(settings.verifyAlg, data)
      this.#peer.onData({
        type: 'P_OV_REPLY',
        volume: 0,
        sector: asked.sector,
        blockIdHi: SYNCER,
        blockIdLo: SYNCER,
        sizeBytes: asked.sizeBytes,
        digest,
      })
    }
    this.#verifyAsked.push(...left)
  }
}

function flipped(packet: PacketOf<'P_DATA'>): PacketOf<'P_DATA'> {
  const payload = new Uint8Array(packet.payload)
  payload[100] = (payload[100] ?? 0) ^ 1
  return { ...packet, payload }
}

const isBitmap = (packet: Packet): packet is PacketOf<'P_BITMAP'> | PacketOf<'P_COMPRESSED_BITMAP'> =>
  packet.type === 'P_BITMAP' || packet.type === 'P_COMPRESSED_BITMAP'

function* sectorsOf(sector: number, sizeBytes: number): Generator<number> {
  for (let i = 0; i < sizeBytes / 512; i++) yield sector + i
}

const keyOf = (packet: Request): string => {
  const sizeBytes = packet.type === 'P_DATA' ? packet.payload.length : packet.sizeBytes
  return `${packet.type === 'P_TRIM' ? 'P_ZEROES' : packet.type} ${packet.sector}+${sizeBytes}`
}

function push(into: Map<string, string[]>, [kind, text]: readonly [string, string]): void {
  const list = into.get(kind)
  if (list === undefined) into.set(kind, [text])
  else list.push(text)
}

