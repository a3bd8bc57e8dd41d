// Goal: a resync uses what link and source have to give, without letting more wait in their buffers than is aimed at; it gives
// way to clients, but never falls below c-min-rate; and a fixed rate stays fixed.
// Method: the pacer against a model of link and source: one server of a given rate, and a delay that no window shortens.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { KIB, MIB } from '../base/units.ts'
import type { ResyncPace } from '../runtime/api.ts'
import { PACE_BYTES_MIN, REQUEST_BYTES_MAX, RESYNC_WINDOW_BUSY_BYTES, RESYNC_WINDOW_BYTES } from './limits.ts'
import { ResyncPacer } from './resync-pacer.ts'

const DEFAULTS: ResyncPace = {
  resyncRateKib: 250,
  cPlanAhead: 20,
  cDelayTarget: 10,
  cFillTarget: 100,
  cMaxRateKib: 102_400,
}
const FILL_BYTES = DEFAULTS.cFillTarget * 512

interface Path {
  readonly bytesPerMs: number
  readonly delayMs: number
  readonly busy?: (nowMs: number) => boolean
}

interface Seen {
  /** Of the last second. */
  readonly bytesPerMs: number
  readonly waitingBytes: number
  readonly inFlightBytes: number
  readonly delayMs: number
  readonly fullRateAtMs: number
}

/** Asks for `forMs` as the window allows; each millisecond what is answered by then is told. */
function run(pacer: ResyncPacer, path: Path, forMs: number): Seen {
  const open: { bytes: number; atMs: number; sentMs: number }[] = []
  let serverFreeMs = 0
  let inFlight = 0
  const last = { answered: 0, inFlight: 0, delay: 0, count: 0 }
  let fullRateAtMs = Number.POSITIVE_INFINITY
  const slot = { bytes: 0, sinceMs: 0 }
  pacer.start(0)
  for (let now = 0; now < forMs; now++) {
    const busy = path.busy?.(now) ?? false
    while ((open[0]?.atMs ?? Number.POSITIVE_INFINITY) <= now) {
      const { bytes, sentMs } = open.shift() as (typeof open)[0]
      pacer.onAnswer({ bytes, delayMs: now - sentMs, inFlightBytes: inFlight }, now)
      inFlight -= bytes
      slot.bytes += bytes
      if (now < forMs - 1000) continue
      last.answered += bytes
      last.delay += now - sentMs
      last.count++
    }
    while (inFlight < pacer.windowBytes(busy, now)) {
      const bytes = 2 ** Math.floor(Math.log2(pacer.requestBytesMax(busy, now)))
      serverFreeMs = Math.max(serverFreeMs, now + path.delayMs / 2) + bytes / path.bytesPerMs
      open.push({ bytes, atMs: serverFreeMs + path.delayMs / 2, sentMs: now })
      inFlight += bytes
    }
    if (now - slot.sinceMs >= 100) {
      if (slot.bytes >= 0.8 * 100 * path.bytesPerMs) fullRateAtMs = Math.min(fullRateAtMs, now)
      Object.assign(slot, { bytes: 0, sinceMs: now })
    }
    if (now >= forMs - 1000) last.inFlight += inFlight / 1000
  }
  return {
    bytesPerMs: last.answered / 1000,
    waitingBytes: last.inFlight - path.bytesPerMs * path.delayMs,
    inFlightBytes: last.inFlight,
    delayMs: last.delay / Math.max(last.count, 1),
    fullRateAtMs,
  }
}

const pacerOf = (patch: Partial<ResyncPace> = {}, minKib = 250): ResyncPacer =>
  new ResyncPacer({ ...DEFAULTS, ...patch }, { maxKib: 0, minKib })

describe('c-plan-ahead 0', () => {
  it('a fixed rate, and a window that only bounds', () => {
    const pacer = pacerOf({ cPlanAhead: 0, resyncRateKib: 4096 })
    pacer.start(0)
    assert.equal(pacer.rateMaxKib, 4096)
    for (let i = 1; i < 100; i++) pacer.onAnswer({ bytes: 4096, delayMs: i, inFlightBytes: 100 * KIB }, i)
    assert.equal(pacer.windowBytes(false, 100), RESYNC_WINDOW_BYTES)
    assert.equal(pacer.windowBytes(true, 100), RESYNC_WINDOW_BUSY_BYTES)
    assert.equal(pacer.requestBytesMax(true, 100), 4096 * KIB * 0.1, 'no larger than what a tenth of a second has')
  })

  it('the same without any of these options, and the rate that the caller gives', () => {
    const pacer = new ResyncPacer(undefined, { maxKib: 77, minKib: 0 })
    pacer.adopt({ cMaxRateKib: 5 })
    assert.equal(pacer.rateMaxKib, 77)
    assert.equal(pacer.requestBytesMax(false, 0), REQUEST_BYTES_MAX)
    assert.equal(pacer.windowBytes(false, 0), RESYNC_WINDOW_BYTES)
  })
})

describe('c-fill-target', () => {
  for (const [name, path] of [
    ['a fast link', { bytesPerMs: 100 * KIB, delayMs: 1 }],
    ['a long link', { bytesPerMs: 20 * KIB, delayMs: 40 }],
    ['a slow link', { bytesPerMs: 2 * KIB, delayMs: 5 }],
  ] as const) {
    it(`${name} is used up, and about the aimed amount waits`, () => {
      const seen = run(pacerOf(), path, 20_000)
      assert.ok(seen.bytesPerMs >= 0.85 * path.bytesPerMs, `${seen.bytesPerMs} of ${path.bytesPerMs} bytes/ms`)
      assert.ok(seen.waitingBytes <= 4 * FILL_BYTES, `${seen.waitingBytes} bytes wait`)
    })
  }

  it('it begins with resync-rate and is at full rate within a second', () => {
    const pacer = pacerOf()
    pacer.start(0)
    assert.equal(pacer.windowBytes(false, 0), PACE_BYTES_MIN)
    const seen = run(pacer, { bytesPerMs: 50 * KIB, delayMs: 10 }, 3000)
    assert.ok(seen.fullRateAtMs <= 1000, `${seen.fullRateAtMs} ms`)
  })

  it('a larger one lets more wait', () => {
    const path = { bytesPerMs: 10 * KIB, delayMs: 5 }
    const small = run(pacerOf(), path, 20_000)
    const large = run(pacerOf({ cFillTarget: 4096 }), path, 20_000)
    assert.ok(large.waitingBytes > 4 * small.waitingBytes, `${large.waitingBytes}, ${small.waitingBytes}`)
    assert.ok(large.waitingBytes <= 2 * 4096 * 512)
  })
})

describe('c-fill-target 0', () => {
  for (const cDelayTarget of [1, 10]) {
    it(`the delay of requests is led to c-delay-target ${cDelayTarget}`, () => {
      const seen = run(pacerOf({ cFillTarget: 0, cDelayTarget }), { bytesPerMs: 4 * KIB, delayMs: 5 }, 40_000)
      const aimMs = cDelayTarget * 100
      assert.ok(seen.delayMs > 0.5 * aimMs && seen.delayMs < 1.5 * aimMs, `${seen.delayMs} ms`)
    })
  }
})

describe('clients at work', () => {
  it('no more than c-fill-target is in flight, and the full window again when they rest', () => {
    const path = { bytesPerMs: 100 * KIB, delayMs: 20 }
    const alone = run(pacerOf(), path, 10_000)
    const beside = run(pacerOf(), { ...path, busy: () => true }, 10_000)
    const after = run(pacerOf(), { ...path, busy: (nowMs) => nowMs < 5000 }, 10_000)
    assert.ok(beside.inFlightBytes <= FILL_BYTES + PACE_BYTES_MIN, `${beside.inFlightBytes} bytes in flight`)
    assert.ok(beside.bytesPerMs < alone.bytesPerMs / 4, `${beside.bytesPerMs} of ${alone.bytesPerMs}`)
    assert.ok(after.bytesPerMs > 0.8 * alone.bytesPerMs)
  })

  it('a client that comes every few hundred milliseconds is not met by a full window', () => {
    const pacer = pacerOf()
    const path = { bytesPerMs: 100 * KIB, delayMs: 20 }
    const seen = run(pacer, { ...path, busy: (nowMs) => nowMs % 300 < 2 }, 10_000)
    assert.ok(seen.inFlightBytes <= FILL_BYTES + PACE_BYTES_MIN, `${seen.inFlightBytes} bytes in flight`)
  })

  it('but c-min-rate is reached, if the path can do it', () => {
    const minKib = 2048
    const path = { bytesPerMs: 20 * KIB, delayMs: 200, busy: () => true }
    const seen = run(pacerOf({}, minKib), path, 20_000)
    assert.ok(seen.bytesPerMs * 1000 >= 0.7 * minKib * KIB, `${seen.bytesPerMs * 1000} bytes/s`)
    assert.ok(seen.bytesPerMs * 1000 <= 5 * minKib * KIB, `and not much more: ${seen.bytesPerMs * 1000} bytes/s`)
  })

  it('a rate so low that nothing is answered for a while is no reason to ask for more', () => {
    const seen = run(pacerOf({}, 1), { bytesPerMs: 10, delayMs: 20, busy: () => true }, 30_000)
    assert.ok(seen.inFlightBytes <= FILL_BYTES + PACE_BYTES_MIN, `${seen.inFlightBytes} bytes in flight`)
  })

  it('c-min-rate 0: it does not give way', () => {
    const path = { bytesPerMs: 100 * KIB, delayMs: 20, busy: () => true }
    assert.ok(run(pacerOf({}, 0), path, 10_000).bytesPerMs > 80 * KIB)
  })
})

describe('what the peer tells', () => {
  it('counts from then on', () => {
    const pacer = pacerOf()
    pacer.adopt({ cMaxRateKib: 1234 })
    assert.equal(pacer.rateMaxKib, 1234)
    pacer.adopt({ cPlanAhead: 0, resyncRateKib: 99 })
    assert.equal(pacer.rateMaxKib, 99)
    assert.equal(pacer.windowBytes(false, 0), RESYNC_WINDOW_BYTES)
  })

  it('whatever it is, the window keeps its bounds', () => {
    for (const value of [0, 1, 2 ** 32 - 1]) {
      const pacer = pacerOf()
      pacer.adopt({
        resyncRateKib: value,
        cPlanAhead: value,
        cDelayTarget: value,
        cFillTarget: value,
        cMaxRateKib: value,
      })
      pacer.start(0)
      for (let now = 0; now < 2000; now += 10) {
        pacer.onAnswer({ bytes: MIB, delayMs: now % 70, inFlightBytes: 3 * MIB }, now)
        for (const busy of [false, true]) {
          const bytes = pacer.windowBytes(busy, now)
          assert.ok(bytes >= PACE_BYTES_MIN && bytes <= RESYNC_WINDOW_BYTES, `${bytes}`)
        }
      }
    }
  })
})
