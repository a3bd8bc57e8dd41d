// How much of a resync is under way (wire-protocol.md 3.13; docs/kernel-peer.md "Resync rate"): the target asks, so the target
// steers. With `c-plan-ahead 0` the rate is fixed and only the window of section 8.3 bounds what is asked for. Otherwise:
//
//   window    bytes asked for and not answered. It begins with what `resync-rate` is in a tenth of a second and doubles per round
//             trip until requests begin to wait. From then on it is corrected, within `c-plan-ahead`, so that `c-fill-target`
//             waits in the buffers of link and source: in flight x (1 - shortest delay seen / delay). With `c-fill-target 0`
//             the delay of requests is led to `c-delay-target`.
//   clients   at work beside it: no more than `c-fill-target` is asked for, so that no request of theirs waits behind more;
//             doubled as long as the resync does not have `c-min-rate`. `c-min-rate 0`: the resync does not give way.
//   rate      never above `c-max-rate` (Resync.takeCredit).
//
// Time and bytes come in as arguments; nothing here knows of disks or packets.

import { KIB } from '../base/units.ts'
import type { ResyncPace } from '../runtime/api.ts'
import {
  PACE_BESIDE_MS,
  PACE_BYTES_MIN,
  PACE_DELAY_MS_MIN,
  PACE_SLOT_MS,
  REQUEST_BYTES_MAX,
  RESYNC_WINDOW_BUSY_BYTES,
  RESYNC_WINDOW_BYTES,
} from './limits.ts'

const DECISECOND_MS = 100
const SECTOR_BYTES = 512

/** Answers of about one round trip. */
interface Round {
  readonly sinceMs: number
  bytes: number
  inFlightBytes: number
  shortestMs: number
}

export class ResyncPacer {
  #pace: ResyncPace | undefined
  readonly #rateMaxKib: number
  readonly #rateMinKib: number
  #windowBytes = RESYNC_WINDOW_BYTES
  #busyBytes = RESYNC_WINDOW_BUSY_BYTES
  /** No request has waited yet. */
  #growing = true
  #round = newRound(0)
  /** What a request takes that waits for nothing. */
  #shortestMs = Number.POSITIVE_INFINITY
  /** When clients were last seen at work. */
  #busyAtMs = Number.NEGATIVE_INFINITY
  /** Answered in this slot. */
  #slotBytes = 0
  #slotSinceMs = 0

  /** Without `pace` windows are fixed, and the rate is what `rateMaxKib` says; 0: no limit. */
  constructor(pace: ResyncPace | undefined, rates: { readonly maxKib: number; readonly minKib: number }) {
    this.#pace = pace
    this.#rateMaxKib = rates.maxKib
    this.#rateMinKib = rates.minKib
  }

  /** The peer's administrator has other wishes, which count for both (3.13). */
  adopt(pace: Partial<ResyncPace>): void {
    if (this.#pace !== undefined) this.#pace = { ...this.#pace, ...pace }
  }

  /** KiB a second at most; 0: no limit. */
  get rateMaxKib(): number {
    if (this.#pace === undefined) return this.#rateMaxKib
    return this.#pace.cPlanAhead === 0 ? this.#pace.resyncRateKib : this.#pace.cMaxRateKib
  }

  start(nowMs: number): void {
    const pace = this.#dynamic
    this.#windowBytes = RESYNC_WINDOW_BYTES
    if (pace !== undefined) this.#windowBytes = bounded(perTick(pace.resyncRateKib))
    this.#busyBytes = this.#busyBytesMin
    this.#growing = true
    this.#round = newRound(nowMs)
    this.#shortestMs = Number.POSITIVE_INFINITY
    this.#slotBytes = 0
    this.#slotSinceMs = nowMs
  }

  /** Bytes that may be asked for and not answered. `busy`: clients are at work. */
  windowBytes(busy: boolean, nowMs: number): number {
    if (this.#dynamic === undefined) return busy ? RESYNC_WINDOW_BUSY_BYTES : RESYNC_WINDOW_BYTES
    if (busy) this.#busyAtMs = nowMs
    const beside = nowMs - this.#busyAtMs < PACE_BESIDE_MS
    if (nowMs - this.#slotSinceMs >= this.#slotMs) this.#endSlot(beside, nowMs)
    return beside && this.#rateMinKib > 0 ? Math.min(this.#windowBytes, this.#busyBytes) : this.#windowBytes
  }

  /** The largest single request: no bursts at a low rate; and what its own transfer takes would pass for waiting. */
  requestBytesMax(busy: boolean, nowMs: number): number {
    const pace = this.#pace
    if (pace === undefined) return REQUEST_BYTES_MAX
    let bytes = perTick(pace.resyncRateKib)
    if (pace.cPlanAhead > 0)
      bytes = pace.cFillTarget > 0 ? pace.cFillTarget * SECTOR_BYTES : this.windowBytes(busy, nowMs) / 8
    return Math.min(REQUEST_BYTES_MAX, Math.max(PACE_BYTES_MIN, bytes))
  }

  /** `inFlightBytes`: with this request. */
  onAnswer(
    answer: { readonly bytes: number; readonly delayMs: number; readonly inFlightBytes: number },
    nowMs: number,
  ): void {
    this.#slotBytes += answer.bytes
    if (this.#dynamic === undefined) return
    const round = this.#round
    round.bytes += answer.bytes
    round.shortestMs = Math.min(round.shortestMs, Math.max(answer.delayMs, PACE_DELAY_MS_MIN))
    round.inFlightBytes = Math.max(round.inFlightBytes, answer.inFlightBytes)
    this.#shortestMs = Math.min(this.#shortestMs, round.shortestMs)
    if (nowMs - round.sinceMs < this.#shortestMs) return
    this.#correct(this.#dynamic, round, nowMs)
    this.#round = newRound(nowMs)
  }

  #correct(pace: ResyncPace, round: Round, nowMs: number): void {
    const horizonMs = pace.cPlanAhead * DECISECOND_MS
    const elapsedMs = Math.min(nowMs - round.sinceMs, horizonMs)
    const missing = missingBytes(pace, round, this.#shortestMs)
    if (missing < 0) this.#growing = false
    // A window that is not used up says nothing about a larger one.
    else if (round.inFlightBytes < this.#windowBytes / 2) return
    this.#windowBytes = bounded(this.#windowBytes + (this.#growing ? round.bytes : (missing * elapsedMs) / horizonMs))
  }

  get isDynamic(): boolean {
    return this.#dynamic !== undefined
  }

  get #dynamic(): ResyncPace | undefined {
    return this.#pace === undefined || this.#pace.cPlanAhead === 0 ? undefined : this.#pace
  }

  /** At `c-min-rate` there has to be at least one request in it. */
  get #slotMs(): number {
    return Math.max(PACE_SLOT_MS, (PACE_BYTES_MIN / perTick(this.#rateMinKib)) * DECISECOND_MS)
  }

  get #busyBytesMin(): number {
    const fillBytes = (this.#pace?.cFillTarget ?? 0) * SECTOR_BYTES
    return fillBytes === 0 ? RESYNC_WINDOW_BUSY_BYTES : bounded(fillBytes)
  }

  #endSlot(busy: boolean, nowMs: number): void {
    const rateKib = (this.#slotBytes * 1000) / (nowMs - this.#slotSinceMs) / KIB
    this.#slotBytes = 0
    this.#slotSinceMs = nowMs
    if (busy && rateKib < this.#rateMinKib) this.#busyBytes = bounded(this.#busyBytes * 2)
    else this.#busyBytes = Math.max(this.#busyBytesMin, this.#busyBytes / 2)
  }
}

/** How much more there should be in flight; negative: less. What the shortest of a round had to wait for waits all the time. */
function missingBytes(pace: ResyncPace, round: Round, shortestMs: number): number {
  const { inFlightBytes } = round
  if (pace.cFillTarget > 0) return pace.cFillTarget * SECTOR_BYTES - inFlightBytes * (1 - shortestMs / round.shortestMs)
  const aimMs = pace.cDelayTarget * DECISECOND_MS
  return Math.min(inFlightBytes, inFlightBytes * (aimMs / round.shortestMs - 1))
}

const newRound = (sinceMs: number): Round => ({
  sinceMs,
  bytes: 0,
  inFlightBytes: 0,
  shortestMs: Number.POSITIVE_INFINITY,
})

/** Bytes in a tenth of a second. */
const perTick = (rateKib: number): number => (rateKib * KIB * DECISECOND_MS) / 1000

const bounded = (bytes: number): number => Math.round(Math.min(Math.max(bytes, PACE_BYTES_MIN), RESYNC_WINDOW_BYTES))
