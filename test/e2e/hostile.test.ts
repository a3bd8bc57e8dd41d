// Goal: nothing that strangers send to the replication port or the NBD port crashes a daemon, makes it grow, keeps it from
// serving its own clients, or keeps the two hosts from finding each other.
// Method: a lab under load; b is killed, so that a looks for its peer and its replication port is open; then strangers of
// many kinds. The load goes on all the time and is checked as in linearizable.test.ts; the process must stay the same one.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { Prng } from '../../src/base/prng.ts'
import { KIB, MIB } from '../../src/base/units.ts'
import type { EndReport } from '../../src/control/api.ts'
import type { WireContext } from '../../src/wire/drbd/packet.ts'
import type { Packet } from '../../src/wire/drbd/packets.ts'
import { differenceOfDisks, SIDES } from '../support/disk-pair.ts'
import { DiskHistory, DiskWorkload, flushBoth, readBack } from '../support/disk-workload.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { packetBytes, Stranger, type Where } from '../support/stranger.ts'

const SEED = 7_301
const LONG = process.env['COPRIME_LONG'] === '1'
const RANDOM_CONNECTIONS = LONG ? 2000 : 200
/** ping-timeout of the lab. */
const PING_TIMEOUT_MS = 500
const STRANGER_MS = 4 * PING_TIMEOUT_MS
const SLACK_MS = 1_500
const ANSWER_MS = 15_000
const RETRY_MS = 20
/** By which a daemon may grow under attack: buffers of sockets and garbage that is not collected yet. */
const GROWTH_BYTES_MAX = 128 * MIB

const H80: WireContext = { apv: 80, features: 0, integrityBytes: 0 }
const H80_MAGIC = 0x83740267
const H95_MAGIC = 0x835a
const P_CONNECTION_FEATURES = 0xfffe
const INITIAL_DATA = packetBytes({ type: 'P_INITIAL_DATA', volume: 0 }, H80)
const INITIAL_META = packetBytes({ type: 'P_INITIAL_META', volume: 0 }, H80)
const FEATURES_BODY_BYTES = 72
const FEATURES_BYTES = 8 + FEATURES_BODY_BYTES

let lab: Lab
let workload: DiskWorkload
let ends: { readonly local: EndReport; readonly peer: EndReport }
let pid = 0
let rssBefore = 0
const history = new DiskHistory()
const prng = new Prng(SEED)

before(async () => {
  lab = await startLab({ size: '32M' })
  workload = new DiskWorkload(lab, history, {
    seed: SEED,
    operations: Number.POSITIVE_INFINITY,
    clientsPerSide: 2,
    inFlightMax: 2,
  })
  await workload.start()
  ends = await lab.resource('a')
  await lab.kill('b')
  await stillServes()
  await looksForPeer()
  pid = (await lab.pid('a')) ?? 0
  rssBefore = rssBytes()
})

after(async () => {
  await lab?.stop()
})

describe('on the replication port', () => {
  test('who does not come from the address of the peer is refused before anything else', async () => {
    const from = lab.logLines('a').length
    const one = new Stranger({ ...replicationPort(), localAddress: '127.0.0.66' }).send(INITIAL_DATA)
    const ms = await one.closedAfter(STRANGER_MS, 'another address')
    assert.ok(ms < STRANGER_MS / 2, `closed after ${ms} ms`)
    await lab.untilLogged('a', /a connection from 127\.0\.0\.66 was refused: the peer is 127\.0\.0\.1/, from)
    await stillServes()
  })

  test('who says nothing is let go after four ping time-outs', async () => {
    const strangers = await Promise.all(Array.from({ length: 5 }, () => stranger()))
    const from = lab.logLines('a').length
    for (const one of strangers) await letGoInTime(one, 'silent')
    await lab.untilLogged('a', /a stranger on the replication port: no packet came within 2000 ms/, from)
    await stillServes()
  })

  test('who begins a packet and stops is let go as well', async () => {
    const beginnings = {
      'half a header': INITIAL_DATA.subarray(0, 5),
      'a header without its payload': header80(P_CONNECTION_FEATURES, FEATURES_BODY_BYTES),
      'half a payload': Buffer.concat([header80(P_CONNECTION_FEATURES, FEATURES_BODY_BYTES), Buffer.alloc(33)]),
    }
    const strangers: [string, Stranger][] = []
    for (const [what, bytes] of Object.entries(beginnings)) strangers.push([what, (await stranger()).send(bytes)])
    for (const [what, one] of strangers) await letGoInTime(one, what)
    await stillServes()
  })

  const wrong: Readonly<Record<string, readonly [bytes: Uint8Array, logged: RegExp]>> = {
    'a wrong magic': [Buffer.from('GET / HTTP/1.1\r\nHost: b\r\n\r\n'), /0x47455420 is no packet header/],
    'a packet that is too long for its type': [header80(0xfff2, 4), /P_INITIAL_DATA: peer announced 4 bytes/],
    'two gigabytes of data': [header95(0x00, 0x7fffffff), /P_DATA: peer announced 2147483647 bytes/],
    'a data packet of odd length': [header95(0x00, 24 + 13), /P_DATA: peer announced 37 bytes/],
    'a ping first': [header80(0x13, 0), /sent P_PING as its first packet/],
    'a command that nobody knows': [header80(0x1234, 60_000), /sent command 4660 as its first packet/],
  }
  for (const [what, [bytes, logged]] of Object.entries(wrong)) {
    test(`${what} is told in the log, and closed at once`, async () => {
      const from = lab.logLines('a').length
      const one = (await stranger()).send(bytes)
      const ms = await one.closedAfter(STRANGER_MS, what)
      assert.ok(ms < STRANGER_MS / 2, `closed after ${ms} ms`)
      const line = await lab.untilLogged('a', /stranger/, from)
      assert.match(line, logged)
      await stillServes()
    })
  }

  test('an endless stream is not taken in', async () => {
    for (const first of [INITIAL_DATA, Buffer.alloc(0)]) {
      const one = (await stranger()).send(first)
      // After P_INITIAL_DATA the stream waits for its twin: a full window of the operating system, and no more.
      const taken = await one.flood(Buffer.alloc(64 * KIB, 0x83), 256 * MIB, 1_000)
      one.destroy()
      assert.ok(taken < 32 * MIB, `${taken} bytes were taken`)
    }
    await stillServes()
    await mayShakeHands()
  })

  for (const [protocolMin, protocolMax] of [
    [70, 80],
    [102, 110],
  ] as const) {
    test(`a peer of versions ${protocolMin} to ${protocolMax} is refused, in words`, async () => {
      const from = lab.logLines('a').length
      const { data, meta } = await shakeHands()
      data.send(featuresOf(protocolMin, protocolMax))
      await data.closedAfter(ANSWER_MS, 'versions')
      await meta.closedAfter(ANSWER_MS, 'versions')
      const text = new RegExp(`incompatible protocol versions: .*86 to 101.*${protocolMin} to ${protocolMax}`)
      await lab.untilLogged('a', text, from)
      // As DRBD has it: a peer that cannot be spoken with is for the administrator.
      await lab.until('a', ({ connection }) => connection === 'StandAlone', 'StandAlone')
      assert.match((await lab.resource('a')).connectionReason ?? '', text)
      await stillServes()
      assert.equal((await lab.control('a').command('r0', { command: 'connect' })).code, 0)
      await looksForPeer()
    })
  }

  test('a peer may break off at every stage of the handshake', { timeout: 120_000 }, async () => {
    for (const stage of STAGES) {
      await breakOff(stage)
      await stillServes()
    }
    await mayShakeHands()
  })

  test('a stranger at the address of the peer', async () => {
    let connections = 0
    const bytes = Buffer.alloc(4096)
    const server = createServer((socket) => {
      connections++
      prng.fill(bytes)
      socket.on('error', () => {})
      socket.write(Buffer.from(bytes))
    })
    const listening = new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(ends.peer.port, ends.peer.address, resolve)
    })
    await listening
    try {
      await workload.changes.until(() => connections >= 4, ANSWER_MS, 'four connections to the address of the peer')
      await stillServes()
    } finally {
      server.close()
    }
    assert.notEqual((await lab.resource('a')).connection, 'StandAlone')
  })

  test(`${RANDOM_CONNECTIONS} connections with random bytes, seed ${SEED}`, { timeout: 300_000 }, async () => {
    await randomConnections(replicationPort(), RANDOM_CONNECTIONS, replicationNoise)
    await stillServes()
    assert.notEqual((await lab.resource('a')).connection, 'StandAlone')
    await mayShakeHands()
  })
})

describe('on the NBD port', () => {
  test(`${RANDOM_CONNECTIONS} connections with random bytes, seed ${SEED}`, { timeout: 300_000 }, async () => {
    await randomConnections({ path: lab.nbdSocket('a') }, RANDOM_CONNECTIONS, nbdNoise)
    await stillServes()
  })

  test('a client that never ends its handshake does not keep others out', async () => {
    const silent = await Promise.all(
      Array.from({ length: 40 }, () => new Stranger({ path: lab.nbdSocket('a') }).connected()),
    )
    const connection = await lab.connect('a')
    await connection.flush()
    await connection.disconnect()
    for (const one of silent) one.destroy()
    await stillServes()
  })
})

test('the hosts find each other in the noise, and nothing is lost', { timeout: 120_000 }, async () => {
  let found = false
  const noise = async (): Promise<number> => {
    let connections = 0
    while (!found) {
      await randomConnections(replicationPort(), 4, noiseWithoutFirstPacket)
      connections += 4
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
    return connections
  }
  const noisy = noise()
  try {
    await lab.restart('b')
    await lab.untilReady(60_000)
  } finally {
    found = true
  }
  console.log(`${await noisy} connections of strangers while the hosts looked for each other`)
  await workload.start(['b'])
  const position = history.log.position
  await workload.changes.until(
    () =>
      SIDES.every((side) => history.requests.some((r) => r.host === side && r.invokedAt > position && isDoneWrite(r))),
    ANSWER_MS,
    'writes on both sides',
  )
  workload.stop()
  await workload.finish(ANSWER_MS)
  await flushBoth(lab)
  assert.equal(differenceOfDisks(lab), undefined)
  await readBack(lab, history)
  assert.deepEqual(history.violations(), [])
  assert.deepEqual(
    [...workload.counts.errors.keys()].filter((error) => error.startsWith('a ')),
    [],
  )
})

test('the daemon is the one that was there, and has not grown', async () => {
  assert.equal(await lab.pid('a'), pid)
  const grownBytes = rssBytes() - rssBefore
  console.log(`grown by ${(grownBytes / MIB).toFixed(0)} MiB from ${(rssBefore / MIB).toFixed(0)} MiB`)
  assert.ok(grownBytes < GROWTH_BYTES_MAX, `grown by ${grownBytes} bytes`)
  const bad = lab
    .logLines('a')
    .filter((line) => /"level":"(error|fatal)"/.test(line) && !/incompatible protocol/.test(line))
  assert.deepEqual(bad, [], 'errors in the log')
})

// ---- the daemon under attack --------------------------------------------------------------------------------------------

const replicationPort = (): { readonly host: string; readonly port: number } => ({
  host: ends.local.address,
  port: ends.local.port,
})

/** While a handshake with somebody goes on nobody listens; then again, within a time-out and a pause. */
async function stranger(): Promise<Stranger> {
  const deadlineMs = performance.now() + ANSWER_MS
  for (;;) {
    try {
      return await new Stranger(replicationPort()).connected()
    } catch (error) {
      if (performance.now() > deadlineMs) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

interface Asked {
  readonly kind: string
  readonly outcome: string
}
const isDoneWrite = ({ kind, outcome }: Asked): boolean => kind === 'write' && outcome === 'done'

/** A write of the load that is asked for from now on is answered. */
async function stillServes(): Promise<void> {
  const position = history.log.position
  const served = (): boolean => {
    const { requests } = history
    for (let i = requests.length - 1; i >= 0; i--) {
      const request = requests[i]
      if (request === undefined || request.invokedAt <= position) return false
      if (request.host === 'a' && isDoneWrite(request)) return true
    }
    return false
  }
  await workload.changes.until(
    served,
    ANSWER_MS,
    () => `a write on a\n${workload.describePending()}\n${lab.lastLines(30)}`,
  )
}

const looksForPeer = (): Promise<void> =>
  lab.until('a', ({ connection }) => connection === 'WFConnection', 'looking for its peer')

async function letGoInTime(one: Stranger, what: string): Promise<void> {
  const ms = await one.closedAfter(STRANGER_MS + SLACK_MS, what)
  assert.ok(ms > STRANGER_MS - 50, `${what}: closed after ${ms} ms, ${STRANGER_MS} are to be waited for`)
}

/** Peak of the resident memory. */
function rssBytes(): number {
  const [, kib] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kib) * KIB
}

// ---- handshakes ---------------------------------------------------------------------------------------------------------

function header80(command: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32BE(H80_MAGIC, 0)
  bytes.writeUInt16BE(command, 4)
  bytes.writeUInt16BE(lengthBytes, 6)
  return bytes
}

function header95(command: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt16BE(H95_MAGIC, 0)
  bytes.writeUInt16BE(command, 2)
  bytes.writeUInt32BE(lengthBytes, 4)
  return bytes
}

const featuresOf = (protocolMin: number, protocolMax: number): Buffer =>
  packetBytes({ type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin, features: 0, protocolMax }, H80)

interface Streams {
  readonly data: Stranger
  readonly meta: Stranger
}

/** As a peer does it: data stream, then meta stream, until a shows its features; again if strangers are in the way. */
async function shakeHands(): Promise<Streams> {
  const deadlineMs = performance.now() + ANSWER_MS
  for (;;) {
    const data = (await stranger()).send(INITIAL_DATA)
    const meta = new Stranger(replicationPort()).send(INITIAL_META)
    try {
      await meta.connected()
      const bytes = await data.untilReceived(FEATURES_BYTES, ANSWER_MS)
      assert.deepEqual([bytes.readUInt32BE(0), bytes.readUInt16BE(4)], [H80_MAGIC, P_CONNECTION_FEATURES])
      return { data, meta }
    } catch (error) {
      data.destroy()
      meta.destroy()
      if (performance.now() > deadlineMs) throw error
    }
  }
}

/** A real peer would get through. */
async function mayShakeHands(): Promise<void> {
  const { data, meta } = await shakeHands()
  data.destroy()
  meta.destroy()
}

interface Stage {
  readonly name: string
  /** How many of a's own opening packets, mirrored, the peer sends after its features; -1: no features. */
  readonly packets: number
  /** Bytes of the last one that are left out. */
  readonly cutBytes?: number
  /** What breaks; default both streams. */
  readonly breaks?: 'meta' | 'nothing'
}

const STAGES: readonly Stage[] = [
  { name: 'after the features of the other side', packets: -1 },
  { name: 'within its features', packets: 0, cutBytes: 41 },
  { name: 'after its features', packets: 0 },
  { name: 'within P_PROTOCOL', packets: 1, cutBytes: 3 },
  { name: 'after P_PROTOCOL', packets: 1 },
  { name: 'after P_SYNC_PARAM89', packets: 2 },
  { name: 'within P_SIZES', packets: 3, cutBytes: 9 },
  { name: 'after P_SIZES', packets: 3 },
  { name: 'after P_UUIDS', packets: 4 },
  { name: 'within P_STATE', packets: 5, cutBytes: 1 },
  { name: 'after P_UUIDS, the meta stream alone', packets: 4, breaks: 'meta' },
  { name: 'after P_UUIDS, by silence', packets: 4, breaks: 'nothing' },
]
const OPENING = ['P_PROTOCOL', 'P_SYNC_PARAM89', 'P_SIZES', 'P_UUIDS', 'P_STATE']
const H100_101: WireContext = { apv: 101, features: 0, integrityBytes: 0 }

async function breakOff(stage: Stage): Promise<void> {
  const { data, meta } = await shakeHands()
  try {
    if (stage.packets >= 0) await tell(data, stage)
    if (stage.breaks !== 'nothing') meta.destroy()
    if (stage.breaks === undefined) data.destroy()
    else await data.closedAfter(ANSWER_MS, stage.name)
  } finally {
    data.destroy()
    meta.destroy()
  }
}

async function tell(data: Stranger, stage: Stage): Promise<void> {
  const features = featuresOf(86, 101)
  if (stage.packets === 0) {
    data.send(features.subarray(0, features.length - (stage.cutBytes ?? 0)))
    return
  }
  data.send(features)
  const opening: Packet[] = await data.packets(OPENING.length, H100_101, ANSWER_MS, FEATURES_BYTES)
  assert.deepEqual(
    opening.map(({ type }) => type),
    OPENING,
  )
  for (let index = 0; index < stage.packets; index++) {
    const bytes = packetBytes(opening[index] as Packet, H100_101)
    const cutBytes = index === stage.packets - 1 ? (stage.cutBytes ?? 0) : 0
    data.send(bytes.subarray(0, bytes.length - cutBytes))
  }
}

// ---- noise --------------------------------------------------------------------------------------------------------------

const PARALLEL = 10

/** Connections that send noise; half of them wait to be closed, half of them hang up at once. */
async function randomConnections(where: Where, count: number, noise: () => Uint8Array): Promise<void> {
  for (let done = 0; done < count; done += PARALLEL) {
    const some = Array.from({ length: Math.min(PARALLEL, count - done) }, () => new Stranger(where))
    for (const one of some) {
      // While the hosts are connected nobody listens there.
      const there = await one.connected().catch(() => undefined)
      there?.send(noise())
      if (prng.chance(1, 2)) one.destroy()
    }
    for (const one of some) one.destroy()
  }
}

function randomBytes(lengthBytesMax: number): Buffer {
  const bytes = Buffer.alloc(prng.intInclusive(1, lengthBytesMax))
  prng.fill(bytes)
  return bytes
}

const NOISE_LENGTHS_MAX = [7, 100, 5_000]

/** As below, or noise behind a first packet that is right: who can do that has taken the place of the peer for a while. */
function replicationNoise(): Buffer {
  if (prng.chance(3, 5)) return noiseWithoutFirstPacket()
  return Buffer.concat([prng.pick([INITIAL_DATA, INITIAL_META]), randomBytes(prng.pick(NOISE_LENGTHS_MAX))])
}

/** Pure noise, and noise behind a header that is right. */
function noiseWithoutFirstPacket(): Buffer {
  const rest = randomBytes(prng.pick(NOISE_LENGTHS_MAX))
  switch (prng.intInclusive(0, 2)) {
    case 0:
      return rest
    case 1:
      return Buffer.concat([header80(prng.u32() & 0x7fff, prng.u32() & 0xffff), rest])
    default:
      return Buffer.concat([header95(prng.u32() & 0x7f, prng.u32()), rest])
  }
}

/** Noise at the greeting, among the options, and among the requests. */
function nbdNoise(): Buffer {
  const flags = Buffer.from([0, 0, 0, 3])
  const rest = randomBytes(prng.pick(NOISE_LENGTHS_MAX))
  switch (prng.intInclusive(0, 3)) {
    case 0:
      return rest
    case 1: {
      const head = Buffer.alloc(16)
      head.write('IHAVEOPT')
      head.writeUInt32BE(prng.intInclusive(0, 12), 8)
      head.writeUInt32BE(prng.pick([rest.length, prng.u32(), 0]), 12)
      return Buffer.concat([flags, head, rest])
    }
    default: {
      // GO for the default export, then requests with random fields and perhaps a right magic.
      const go = Buffer.from('49484156454f505400000007000000060000000000000000', 'hex').subarray(0, 22)
      const requests = Array.from({ length: 20 }, () => {
        const request = Buffer.alloc(28)
        prng.fill(request)
        request.writeUInt32BE(0x25609513, 0)
        // Never a write that could succeed: its data would be in nobody's record.
        request.writeUInt16BE(prng.pick([0, 3, 5, 7, 8, 100]), 6)
        if (prng.chance(1, 2)) request.fill(0, 16, 21)
        return request
      })
      return Buffer.concat([flags, go, ...requests, rest])
    }
  }
}
