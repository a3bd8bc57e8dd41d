// Goal: streams keep their order whatever happens, have none between each other, and end as TCP connections end.
// Method: two ports on a fabric, faults of each kind, many seeds. What runtime/ports.ts promises is tested in test/contract.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import type { Link } from '../runtime/ports.ts'
import { NETWORK_DEFAULTS, type NetworkConfig, SimNetwork } from './network.ts'
import { Scheduler } from './scheduler.ts'
import { Trace } from './trace.ts'

class End {
  readonly link: Link
  received: number[] = []
  closed: string | undefined

  constructor(link: Link) {
    this.link = link
    link.setHandler({
      onData: (chunk) => this.received.push(...chunk),
      onDrain: () => {},
      onClose: (reason) => {
        this.closed = reason
      },
    })
  }
}

class Bench {
  readonly scheduler = new Scheduler(new Trace())
  readonly reports: string[] = []
  readonly network: SimNetwork
  readonly lifeA = { alive: true }
  readonly lifeB = { alive: true }

  constructor(seed: number, config: Partial<NetworkConfig> = {}) {
    const report = (checker: string): void => void this.reports.push(checker)
    this.network = new SimNetwork(this.scheduler, new Prng(seed), report, { ...NETWORK_DEFAULTS, ...config })
  }

  run(ms: number): void {
    const untilUs = this.scheduler.nowUs + ms * 1000
    while ((this.scheduler.nextAtUs() ?? Number.POSITIVE_INFINITY) <= untilUs) this.scheduler.runNext()
    this.scheduler.advanceTo(untilUs)
  }

  /** `count` connections made by a, each as [end of a, end of b]. */
  pairs(count: number): [End, End][] {
    const pairs: [End, End][] = []
    for (let i = 0; i < count; i++) {
      const port = this.network.port('b', this.lifeB)
      let serverEnd: End | undefined
      let clientEnd: End | undefined
      port.listen(
        (link) => {
          serverEnd = new End(link)
        },
        (reason) => assert.fail(reason),
      )
      this.network.port('a', this.lifeA).connect(
        5_000,
        (link) => {
          clientEnd = new End(link)
        },
        (reason) => assert.fail(reason),
      )
      this.run(1_000)
      port.stopListening()
      assert.ok(clientEnd !== undefined && serverEnd !== undefined)
      pairs.push([clientEnd, serverEnd])
    }
    return pairs
  }

  pair(): [End, End] {
    return this.pairs(1)[0] as [End, End]
  }
}

const bytes = (...values: number[]): Uint8Array => new Uint8Array(values)

test('two streams are in order, each in itself, and in every order between each other', () => {
  const orders = new Set<string>()
  for (let seed = 1; seed <= 60; seed++) {
    const bench = new Bench(seed)
    const [[a1, b1], [a2, b2]] = bench.pairs(2) as [[End, End], [End, End]]
    const order: string[] = []
    b1.link.setHandler({ onData: (chunk) => order.push(...[...chunk].map((n) => `x${n}`)), onDrain() {}, onClose() {} })
    b2.link.setHandler({ onData: (chunk) => order.push(...[...chunk].map((n) => `y${n}`)), onDrain() {}, onClose() {} })
    a1.link.send([bytes(1)])
    a2.link.send([bytes(1)])
    a1.link.send([bytes(2)])
    bench.run(1_000)
    assert.deepEqual(
      order.filter((what) => what.startsWith('x')),
      ['x1', 'x2'],
    )
    orders.add(order.join(' '))
  }
  assert.ok(orders.size >= 2, [...orders].join('; '))
})

test('a partition freezes everything, and loses nothing when it heals', () => {
  const bench = new Bench(3)
  const [a, b] = bench.pair()
  bench.network.partition()
  a.link.send([bytes(1, 2, 3)])
  b.link.send([bytes(9)])
  const outcomes: string[] = []
  for (let i = 0; i < 20; i++) {
    const up = (): void => void outcomes.push('up')
    bench.network.port('a', bench.lifeA).connect(800, up, (reason) => outcomes.push(reason))
  }
  bench.run(5_000)
  assert.deepEqual(b.received, [])
  assert.deepEqual([...new Set(outcomes)].sort(), ['host unreachable', 'timed out'])
  bench.network.heal()
  bench.run(2_000)
  assert.deepEqual(b.received, [1, 2, 3])
  assert.deepEqual(a.received, [9])
  assert.equal(a.closed, undefined)
})

test('a partition in one direction stops that direction only, and connects both ways', () => {
  const bench = new Bench(4)
  const [a, b] = bench.pair()
  bench.network.partition('a')
  a.link.send([bytes(1)])
  b.link.send([bytes(2)])
  let outcome = ''
  bench.network.port('a', bench.lifeA).listen(
    () => {},
    () => {},
  )
  bench.network.port('b', bench.lifeB).connect(
    700,
    () => {
      outcome = 'up'
    },
    (reason) => {
      outcome = reason
    },
  )
  bench.run(3_000)
  assert.deepEqual([a.received, b.received], [[2], []])
  assert.equal(outcome, 'timed out', 'the answer to the connect does not come through')
})

test('a connect that waits through a partition comes up when it heals in time', () => {
  let up = 0
  for (let seed = 1; seed <= 20; seed++) {
    const bench = new Bench(seed)
    bench.network.port('b', bench.lifeB).listen(
      () => {},
      () => {},
    )
    bench.network.partition()
    bench.network.port('a', bench.lifeA).connect(
      3_000,
      () => up++,
      () => {},
    )
    bench.run(900)
    bench.network.heal()
    bench.run(5_000)
  }
  assert.ok(up > 3 && up < 20, `${up} of 20: some give up at once (unreachable), the others wait`)
})

test('a cut resets both ends, each at its own time', () => {
  const bench = new Bench(5)
  const [a, b] = bench.pair()
  bench.network.cut()
  bench.run(1_000)
  assert.equal(a.closed, 'connection reset')
  assert.equal(b.closed, 'connection reset')
  assert.equal(bench.network.connections.size, 0)
})

test('a half-open connection is silent for ever; others are not', () => {
  const bench = new Bench(6)
  const [[a1, b1], [a2, b2]] = bench.pairs(2) as [[End, End], [End, End]]
  bench.network.halfOpen([...bench.network.connections][0])
  for (const end of [a1, b1, a2, b2]) end.link.send([bytes(7)])
  a1.link.close()
  bench.network.heal()
  bench.run(60_000)
  assert.deepEqual([a1.received, b1.received, a2.received, b2.received], [[], [], [7], [7]])
  assert.equal(b1.closed, undefined)
})

test('the end of a process closes its sockets; the power of a host vanishes without a word', () => {
  const bench = new Bench(7)
  const [a, b] = bench.pair()
  bench.lifeA.alive = false
  bench.network.processGone(bench.lifeA)
  bench.run(1_000)
  assert.match(b.closed ?? '', /closed by peer|reset/)
  assert.equal(a.closed, undefined, 'the dead hear nothing')

  const dark = new Bench(8)
  const [, other] = dark.pair()
  dark.lifeA.alive = false
  dark.network.powerOff('a')
  dark.run(60_000)
  other.link.send([bytes(1)])
  dark.run(60_000)
  assert.equal(other.closed, undefined, 'silence')
  dark.network.powerOn('a')
  dark.run(1_000)
  assert.match(other.closed ?? '', /reset/, 'the host is up again and knows nothing of the connection')
})

test('a host without power, and one without a listener, accept nothing', () => {
  const bench = new Bench(9)
  const reasons: string[] = []
  const connect = (): void => {
    bench.network.port('a', bench.lifeA).connect(
      500,
      () => assert.fail('nobody listens'),
      (reason) => reasons.push(reason),
    )
    bench.run(1_000)
  }
  connect()
  bench.network.powerOff('b')
  connect()
  assert.equal(reasons[0], 'connection refused')
  assert.match(reasons[1] ?? '', /timed out|unreachable/)
})

test('a buffer that changes while it is queued is reported', () => {
  const bench = new Bench(10)
  const [a] = bench.pair()
  const buffer = bytes(1, 2, 3)
  a.link.send([buffer])
  buffer[1] = 9
  bench.run(100)
  assert.deepEqual(bench.reports, ['link-contract'])
})

test('what was sent before an orderly close arrives before the end, unless the close is a reset', () => {
  const ends = new Set<string>()
  for (let seed = 1; seed <= 40; seed++) {
    const bench = new Bench(seed)
    const [a, b] = bench.pair()
    a.link.send([bytes(5)])
    // Everything has been handed over, so that only the kind of close matters.
    bench.run(0.05)
    a.link.close()
    bench.run(1_000)
    ends.add(`${b.received.join()} ${b.closed}`)
    if (b.closed === 'closed by peer') assert.deepEqual(b.received, [5])
  }
  assert.ok(ends.has('5 closed by peer'), [...ends].join('; '))
  assert.ok([...ends].some((end) => end.includes('reset')))
})
