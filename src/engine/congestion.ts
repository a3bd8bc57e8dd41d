// Congestion of the link under protocol A (wire-protocol.md 8.11): what is sent and not acknowledged is bounded by going on
// without the peer for a while, instead of letting clients wait for a slow link.
//
//   Connected ── too much in flight ──▶ Ahead: P_STATE; writes stay here, the peer (Behind) gets P_OUT_OF_SYNC for each
//   Ahead ── all is acknowledged, and a rest ──▶ SyncSource: P_SYNC_UUID; no bitmaps are exchanged, both have the same bits
//
// In flight is what the peer has not acknowledged by the barrier of its epoch; so epochs end early while a policy is set, also
// between two of ours (`SentEpochs`). The entries below are in the order of their epochs.

import type { CongestionSettings } from '../runtime/api.ts'
import { C_AHEAD, C_CONNECTED, D_UPTODATE } from '../wire/drbd/constants.ts'
import type { SentEpoch } from './epochs.ts'
import { AHEAD_POLL_MS, AHEAD_REST_MS } from './limits.ts'
import type { LocalWrite } from './requests.ts'
import type { Volume } from './volume.ts'

/** Version from which a peer knows these states. */
const APV_AHEAD = 96
const EXTENT_SECTORS = 8192

interface SentRange {
  readonly epoch: SentEpoch
  readonly sector: number
  readonly sectors: number
}

export class Congestion {
  readonly #volume: Volume
  /** Sent, not acknowledged; oldest first, from `#head` on. */
  #sent: SentRange[] = []
  #head = 0
  #sectors = 0
  /** How many entries touch each 4 MiB extent. */
  readonly #extents = new Map<number, number>()
  /** Since when nothing is in flight. */
  #restedSinceMs: number | undefined

  constructor(volume: Volume) {
    this.#volume = volume
  }

  get #settings(): CongestionSettings | undefined {
    const { congestion, protocol } = this.#volume.engine.settings
    return congestion === undefined || protocol !== 'A' ? undefined : congestion
  }

  /** Sectors that the peer has not acknowledged. */
  get sectorsInFlight(): number {
    this.#forgetAcknowledged()
    return this.#sectors
  }

  onSent(write: LocalWrite): void {
    if (this.#settings === undefined || write.epoch === undefined) return
    const { epoch, sector, sectors } = write
    this.#sent.push({ epoch, sector, sectors })
    this.#sectors += sectors
    this.#count(sector, sectors, 1)
  }

  /** Before a write begins: whether it is to be the first one that the peer does not get. */
  check(): void {
    const settings = this.#settings
    const { state, engine } = this.#volume
    if (settings === undefined || state.conn !== C_CONNECTED || state.disk !== D_UPTODATE) return
    if (state.pdsk !== D_UPTODATE || engine.connection.apv < APV_AHEAD || !this.#isCongested(settings)) return
    if (settings.policy === 'pull-ahead') this.#goAhead()
    // Not within the write that found out: a lost peer changes what is about to be done with it.
    else engine.timers.set('congested', engine.nowMs, () => engine.connection.onCongested())
  }

  /** The connection is gone: nothing will be acknowledged any more. */
  reset(): void {
    this.#sent = []
    this.#head = 0
    this.#sectors = 0
    this.#extents.clear()
    this.#volume.engine.timers.clear(this.#timer)
  }

  get #timer(): string {
    return `ahead-${this.#volume.number}`
  }

  #isCongested({ fillSectors, extents }: CongestionSettings): boolean {
    this.#forgetAcknowledged()
    return (fillSectors > 0 && this.#sectors >= fillSectors) || this.#extents.size >= extents
  }

  #forgetAcknowledged(): void {
    for (let entry = this.#sent[this.#head]; entry?.epoch.acknowledged === true; entry = this.#sent[this.#head]) {
      this.#head++
      this.#sectors -= entry.sectors
      this.#count(entry.sector, entry.sectors, -1)
    }
    if (this.#head * 2 < this.#sent.length) return
    this.#sent = this.#sent.slice(this.#head)
    this.#head = 0
  }

  #count(sector: number, sectors: number, by: 1 | -1): void {
    const last = Math.floor((sector + sectors - 1) / EXTENT_SECTORS)
    for (let extent = Math.floor(sector / EXTENT_SECTORS); extent <= last; extent++) {
      const count = (this.#extents.get(extent) ?? 0) + by
      if (count > 0) this.#extents.set(extent, count)
      else this.#extents.delete(extent)
    }
  }

  #goAhead(): void {
    const { engine, number } = this.#volume
    engine.log('warn', `the link is congested (${this.#sectors} sectors in flight): going on without the peer`, number)
    this.#restedSinceMs = undefined
    this.#volume.change({ conn: C_AHEAD }, 'congestion')
    this.#armReturn()
  }

  #armReturn(): void {
    const { engine } = this.#volume
    engine.timers.set(this.#timer, engine.nowMs + AHEAD_POLL_MS, () => this.#maybeReturn())
  }

  /** When nothing is in flight any more, and after a rest, the peer is resynced. */
  #maybeReturn(): void {
    const { state, engine } = this.#volume
    if (state.conn !== C_AHEAD) return
    if (engine.connection.epochs.unacknowledged > 0) this.#restedSinceMs = undefined
    else this.#restedSinceMs ??= engine.nowMs
    if (this.#restedSinceMs !== undefined && engine.nowMs - this.#restedSinceMs >= AHEAD_REST_MS)
      this.#volume.resyncBounds.beginAsSource()
    else this.#armReturn()
  }
}
