// Goal: the lab's network delays without reordering, and its cut behaves as a firewall rule. Method: two
// hosts on a network in memory (bytes arrive at the next wake-up) and a clock that the test moves.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { Clock, Link, LinkHandler, Network } from '../runtime/ports.ts'
import { type DelayedNetwork, delayedNetwork } from './delayed-network.ts'

class ManualClock implements Clock {
  #nowMs = 1000
  #wakeups: { deadlineMs: number; fire: () => void }[] = []

  nowMs(): number {
    return this.#nowMs
  }

  wakeAt(deadlineMs: number, fire: () => void): { cancel(): void } {
    const wakeup = { deadlineMs, fire }
    this.#wakeups.push(wakeup)
    return {
      cancel: () => {
        this.#wakeups = this.#wakeups.filter((other) => other !== wakeup)
      },
    }
  }

  /** Fires what is due, in order, until nothing is, up to `ms` from now. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms
    for (;;) {
      const next = this.#wakeups.reduce<{ deadlineMs: number; fire: () => void } | undefined>(
        (first, each) => (first === undefined || each.deadlineMs < first.deadlineMs ? each : first),
        undefined,
      )
      if (next === undefined || next.deadlineMs > endMs) break
      this.#wakeups = this.#wakeups.filter((other) => other !== next)
      this.#nowMs = Math.max(this.#nowMs, next.deadlineMs)
      next.fire()
    }
    this.#nowMs = endMs
  }
}

class MemoryLink implements Link {
  readonly #clock: Clock
  peer: MemoryLink | undefined
  #handler: LinkHandler | undefined
  #unread: (Uint8Array | undefined)[] = []
  #paused = false
  isOpen = true
  queuedBytes = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  setHandler(handler: LinkHandler): void {
    this.#handler = handler
    this.#later(() => this.#deliver())
  }

  send(chunks: readonly Uint8Array[]): void {
    const copies = chunks.map((chunk) => chunk.slice())
    this.#later(() => {
      for (const copy of copies) this.peer?.arrive(copy)
      this.#handler?.onDrain()
    })
  }

  arrive(chunk: Uint8Array | undefined): void {
    this.#unread.push(chunk)
    this.#deliver()
  }

  pauseReading(): void {
    this.#paused = true
  }

  resumeReading(): void {
    this.#paused = false
    this.#later(() => this.#deliver())
  }

  close(): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.#handler = undefined
    this.#later(() => this.peer?.arrive(undefined))
  }

  #later(what: () => void): void {
    this.#clock.wakeAt(this.#clock.nowMs(), what)
  }

  #deliver(): void {
    while (this.#handler !== undefined && !this.#paused && this.#unread.length > 0) {
      const chunk = this.#unread.shift()
      if (chunk !== undefined) this.#handler.onData(chunk)
      else {
        this.isOpen = false
        this.#handler.onClose('closed by peer')
        this.#handler = undefined
      }
    }
  }
}

class MemoryNetwork implements Network {
  readonly #clock: Clock
  peer: MemoryNetwork | undefined
  onLink: ((link: Link) => void) | undefined
  connects = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  connect(_timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void): { cancel(): void } {
    this.connects++
    return this.#clock.wakeAt(this.#clock.nowMs(), () => {
      const accept = this.peer?.onLink
      if (accept === undefined) {
        onFailure('refused')
        return
      }
      const mine = new MemoryLink(this.#clock)
      const theirs = new MemoryLink(this.#clock)
      mine.peer = theirs
      theirs.peer = mine
      accept(theirs)
      onUp(mine)
    })
  }

  listen(onLink: (link: Link) => void): void {
    this.onLink = onLink
  }

  stopListening(): void {
    this.onLink = undefined
  }
}

class Log implements LinkHandler {
  readonly #clock: Clock
  readonly link: Link
  readonly events: string[] = []
  bytes: number[] = []

  constructor(clock: Clock, link: Link) {
    this.#clock = clock
    this.link = link
    link.setHandler(this)
  }

  onData(chunk: Uint8Array): void {
    for (const byte of chunk) this.bytes.push(byte)
    this.events.push(`${this.#clock.nowMs()} data ${chunk.length}`)
  }

  onDrain(): void {
    this.events.push(`${this.#clock.nowMs()} drain`)
  }

  onClose(reason: string): void {
    this.events.push(`${this.#clock.nowMs()} close ${reason}`)
  }

  takeEvents(): string[] {
    return this.events.splice(0)
  }
}

interface Lab {
  readonly clock: ManualClock
  readonly a: DelayedNetwork
  readonly b: DelayedNetwork
  readonly inner: readonly [MemoryNetwork, MemoryNetwork]
  delayMs: number
  connect(): { client: Log; server: Log }
}

function makeLab(delayMs: number): Lab {
  const clock = new ManualClock()
  const inner = [new MemoryNetwork(clock), new MemoryNetwork(clock)] as const
  inner[0].peer = inner[1]
  inner[1].peer = inner[0]
  const lab: Lab = {
    clock,
    inner,
    delayMs,
    a: delayedNetwork(inner[0], () => lab.delayMs, clock),
    b: delayedNetwork(inner[1], () => lab.delayMs, clock),
    connect: () => {
      const links: Log[] = []
      const onLink = (link: Link): void => void links.push(new Log(clock, link))
      lab.b.listen(onLink, assert.fail)
      lab.a.connect(60_000, onLink, assert.fail)
      clock.advance(10 * lab.delayMs + 1)
      const [server, client] = links
      assert.ok(client !== undefined && server !== undefined)
      return { client, server }
    },
  }
  return lab
}

const data = (...values: number[]): Uint8Array[] => [Uint8Array.from(values)]

test('data takes the delay in each direction, and the sender sees none of it', () => {
  const lab = makeLab(10)
  const { client, server } = lab.connect()
  const startMs = lab.clock.nowMs()
  client.link.send(data(1, 2, 3))
  lab.clock.advance(5)
  server.link.send(data(4))
  lab.clock.advance(100)
  assert.deepEqual(client.events, [`${startMs} drain`, `${startMs + 15} data 1`])
  assert.deepEqual(server.events, [`${startMs + 5} drain`, `${startMs + 10} data 3`])
})

test('a connection takes a round trip to come up, and half of one to be accepted', () => {
  const lab = makeLab(10)
  const times: string[] = []
  lab.b.listen(() => times.push(`accepted ${lab.clock.nowMs()}`), assert.fail)
  lab.a.connect(1000, () => times.push(`up ${lab.clock.nowMs()}`), assert.fail)
  lab.clock.advance(100)
  assert.deepEqual(times, ['accepted 1010', 'up 1020'])
})

test('a connection that takes longer than the time-out fails', () => {
  const lab = makeLab(10)
  const reasons: string[] = []
  lab.b.listen(() => {}, assert.fail)
  lab.a.connect(
    15,
    () => assert.fail('too late'),
    (reason) => reasons.push(reason),
  )
  lab.clock.advance(100)
  assert.deepEqual(reasons, ['timed out'])
})

test('a delay that becomes shorter does not reorder, one that becomes longer does not hold up what is under way', () => {
  const lab = makeLab(20)
  const { client, server } = lab.connect()
  const startMs = lab.clock.nowMs()
  client.link.send(data(1))
  lab.clock.advance(5)
  lab.delayMs = 0
  client.link.send(data(2))
  lab.clock.advance(10)
  assert.deepEqual(server.bytes, [])
  lab.clock.advance(5)
  assert.deepEqual(server.bytes, [1, 2])
  assert.deepEqual(server.events, [`${startMs + 20} data 1`, `${startMs + 20} data 1`])
  client.link.send(data(3))
  lab.clock.advance(0)
  assert.deepEqual(server.bytes, [1, 2, 3])
})

test('the end of a link comes after its data', () => {
  const lab = makeLab(10)
  const { client, server } = lab.connect()
  const startMs = lab.clock.nowMs()
  client.link.send(data(1))
  lab.clock.advance(1)
  client.link.close()
  lab.clock.advance(100)
  assert.deepEqual(server.events, [`${startMs + 10} data 1`, `${startMs + 11} close closed by peer`])
  assert.deepEqual(client.events, [`${startMs} drain`])
})

test('while reading is paused nothing is delivered, nor after an own close', () => {
  const lab = makeLab(10)
  const { client, server } = lab.connect()
  client.link.send(data(1))
  lab.clock.advance(1)
  server.link.pauseReading()
  lab.clock.advance(100)
  assert.deepEqual(server.bytes, [])
  server.link.resumeReading()
  assert.deepEqual(server.bytes, [], 'not inside the call')
  lab.clock.advance(0)
  assert.deepEqual(server.bytes, [1])
  client.link.send(data(2))
  lab.clock.advance(1)
  server.link.close()
  lab.clock.advance(100)
  assert.deepEqual(server.bytes, [1])
})

for (const hosts of ['a', 'b', 'ab']) {
  const cutAll = (lab: Lab): void => {
    if (hosts.includes('a')) lab.a.cut()
    if (hosts.includes('b')) lab.b.cut()
  }
  const healAll = (lab: Lab): void => {
    lab.a.heal()
    lab.b.heal()
  }

  test(`cut at ${hosts}: links freeze without a word, and go on after heal with nothing lost`, () => {
    const lab = makeLab(10)
    const { client, server } = lab.connect()
    client.link.send(data(1))
    lab.clock.advance(5)
    cutAll(lab)
    client.link.send(data(2))
    server.link.send(data(3))
    lab.clock.advance(10_000)
    const heard = hosts === 'a' ? [1] : []
    assert.deepEqual([server.bytes, client.bytes], [heard, []], 'what was past the cut had arrived, the rest not')
    assert.equal(client.events.filter((event) => event.endsWith('drain')).length, 2, 'the buffer took it')
    healAll(lab)
    assert.deepEqual(client.bytes, [], 'not inside the call')
    lab.clock.advance(100)
    client.link.send(data(4))
    lab.clock.advance(100)
    assert.deepEqual([server.bytes, client.bytes], [[1, 2, 4], [3]])
  })

  test(`cut at ${hosts}: a close is heard of after heal only`, () => {
    const lab = makeLab(10)
    const { client, server } = lab.connect()
    cutAll(lab)
    client.link.close()
    lab.clock.advance(10_000)
    assert.deepEqual(server.events, [])
    healAll(lab)
    lab.clock.advance(100)
    assert.equal(server.events.length, 1)
    assert.match(server.events[0] ?? '', /close closed by peer/)
  })

  test(`cut at ${hosts}: no connection comes up`, () => {
    const lab = makeLab(0)
    lab.b.listen((link) => link.close(), assert.fail)
    cutAll(lab)
    const ends: string[] = []
    lab.a.connect(
      500,
      (link) => new Log(lab.clock, link).events.push('up'),
      (reason) => ends.push(`${lab.clock.nowMs()} ${reason}`),
    )
    lab.clock.advance(10_000)
    if (hosts.includes('a')) assert.deepEqual(ends, ['1500 timed out'])
  })
}

test('the sender of a cut link sees its queue grow behind a full buffer', () => {
  const lab = makeLab(0)
  const { client, server } = lab.connect()
  lab.a.cut()
  for (let i = 0; i < 3; i++) client.link.send([new Uint8Array(1 << 20)])
  lab.clock.advance(1000)
  assert.equal(client.link.queuedBytes, 2 << 20)
  assert.deepEqual(client.events, [])
  lab.a.heal()
  lab.clock.advance(0)
  assert.equal(client.link.queuedBytes, 0)
  assert.equal(server.bytes.length, 3 << 20)
})

test('a connect that waits out a short cut goes through, with one inner attempt at a time', () => {
  const lab = makeLab(10)
  lab.b.listen(() => {}, assert.fail)
  lab.a.cut()
  const ups: number[] = []
  lab.a.connect(1000, () => ups.push(lab.clock.nowMs()), assert.fail)
  lab.clock.advance(100)
  assert.equal(lab.inner[0].connects, 0)
  lab.a.heal()
  lab.clock.advance(5)
  lab.a.cut()
  lab.clock.advance(100)
  assert.deepEqual(ups, [])
  lab.a.heal()
  lab.clock.advance(100)
  assert.deepEqual(ups, [1225])
})

test('a connect that was cancelled while cut stays silent', () => {
  const lab = makeLab(0)
  lab.b.listen(() => {}, assert.fail)
  lab.a.cut()
  const attempt = lab.a.connect(100, () => assert.fail('up'), assert.fail)
  attempt.cancel()
  lab.a.heal()
  lab.clock.advance(1000)
  assert.equal(lab.inner[0].connects, 0)
})
