// Goal: `coprime lab` is what its users script against: two hosts, one disk; one of them may die, the network may fail, the
// lab may be stopped, killed and started again, and what was written is there. Method: real processes and sockets, our own
// NBD client; every wait is for an event of a daemon, with a bound.

import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'

import { connectNbd, type NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { ControlClient } from '../../src/control/client.ts'
import type { LabLine, LabStatus } from '../../src/daemon/lab/api.ts'
import type { PacketRecord } from '../../src/runtime/packet-trace.ts'
import {
  coprime,
  isRunning,
  LIMIT_MS,
  LongRunning,
  removeFolder,
  temporaryFolder,
  whenGone,
  within,
} from './processes.ts'

const BLOCK = 4096
/** "Within about a second", on a machine with other work. */
const GOES_ON_MS = 3000
const SLOW_LINK_WATCHED_MS = 8_000

type SideName = 'a' | 'b'

class RunningLab {
  readonly process: LongRunning
  readonly folder: string
  line: LabLine | undefined

  constructor(folder: string, ...options: string[]) {
    this.folder = folder
    this.process = new LongRunning(['lab', '--json', '--dir', folder, '--log-level', 'debug', ...options])
  }

  async start(): Promise<LabLine> {
    this.line = JSON.parse(await this.process.firstLine()) as LabLine
    return this.line
  }

  get ready(): LabLine {
    assert.ok(this.line)
    return this.line
  }

  connect(side: SideName): Promise<NbdConnectionToServer> {
    const uri = new URL(this.ready[side].nbd)
    return connectNbd({ socketPath: uri.searchParams.get('socket') ?? '', exportName: uri.pathname.slice(1) })
  }

  async command(...words: string[]): Promise<LabStatus> {
    const { exitCode, stdout, stderr } = await coprime(['lab', '--dir', this.folder, '--json', ...words])
    assert.equal(exitCode, 0, stderr)
    return JSON.parse(stdout) as LabStatus
  }

  /** Until the daemon of this side is Primary, UpToDate and connected. */
  async whenPrimary(side: SideName): Promise<void> {
    const reached = await new ControlClient(this.ready[side].control).waitFor((resources) => {
      const r0 = resources.get('r0')
      return r0?.role === 'Primary' && r0.connection === 'Connected' && r0.volumes[0]?.disk === 'UpToDate'
    }, LIMIT_MS)
    assert.ok(reached, `${side} is Primary again`)
  }

  async end(): Promise<void> {
    const exitCode = await this.process.end()
    assert.equal(exitCode, 0, this.process.stderr)
  }
}

const folders: string[] = []
const labs: RunningLab[] = []

function newFolder(): string {
  const folder = temporaryFolder()
  folders.push(folder)
  return folder
}

function newLab(folder: string, ...options: string[]): RunningLab {
  const lab = new RunningLab(folder, ...options)
  labs.push(lab)
  return lab
}

async function writeAndClose(lab: RunningLab, side: SideName, offsetBytes: number, byte: number): Promise<void> {
  const client = await lab.connect(side)
  await within(LIMIT_MS, `a write through ${side}`, client.write(offsetBytes, new Uint8Array(BLOCK).fill(byte)))
  await client.disconnect()
}

async function expectByte(lab: RunningLab, side: SideName, offsetBytes: number, byte: number): Promise<void> {
  const client = await lab.connect(side)
  const data = await within(LIMIT_MS, `a read through ${side}`, client.read(offsetBytes, BLOCK))
  assert.deepEqual(Buffer.from(data), Buffer.alloc(BLOCK, byte))
  await client.disconnect()
}

// One suite around all: its last hook runs also when something has failed and keeps this process from ending.
describe('coprime lab', () => {
  after(() => {
    for (const { process } of labs) process.child.kill('SIGKILL')
    for (const folder of folders) removeFolder(folder)
  })

  describe('a lab', () => {
    const folder = newFolder()
    const lab = newLab(join(folder, 'lab'), '--size', '16M')
    const pids: number[] = []

    test('its first line tells where everything is', async () => {
      const line = await lab.start()
      assert.deepEqual(Object.keys(line), ['a', 'b', 'link', 'dashboard'])
      for (const side of ['a', 'b'] as const) {
        assert.deepEqual(Object.keys(line[side]), ['nbd', 'pid', 'disk', 'control'])
        assert.match(line[side].nbd, /^nbd\+unix:\/\/\/r0\?socket=\/.+$/)
        assert.ok(isRunning(line[side].pid))
        assert.ok(statSync(line[side].disk).size > 16 * 1024 * 1024)
        assert.ok(statSync(line[side].control).isSocket())
        pids.push(line[side].pid)
      }
      assert.notEqual(line.a.pid, line.b.pid)
      assert.match(line.dashboard, /^http:\/\/127\.0\.0\.1:\d+\/$/)
    })

    test('both sides are Primary and UpToDate then, and clients see the size asked for', async () => {
      const status = await lab.command('status')
      for (const side of ['a', 'b'] as const) {
        const r0 = status[side].report?.resources[0]
        assert.equal(r0?.role, 'Primary')
        assert.equal(r0?.volumes[0]?.disk, 'UpToDate')
        const client = await lab.connect(side)
        assert.equal(client.sizeBytes, 16 * 1024 * 1024)
        await client.disconnect()
      }
      const page = await fetch(lab.ready.dashboard)
      assert.equal(page.status, 200)
      assert.match(await page.text(), /UpToDate/)
    })

    test('what is written through one side is read through the other', async () => {
      await writeAndClose(lab, 'a', 0, 0x11)
      await expectByte(lab, 'b', 0, 0x11)
      await writeAndClose(lab, 'b', 0, 0x12)
      await expectByte(lab, 'a', 0, 0x12)
    })

    test('trace shows a write as it passes, and its answer', async () => {
      const client = await lab.connect('a')
      let traced: Awaited<ReturnType<typeof coprime>> | undefined
      const trace = coprime(['trace', 'r0', '--json', '--kind', 'write', '-n', '6', '--control', lab.ready.a.control])
      void trace.then((result) => {
        traced = result
      })
      const deadlineMs = performance.now() + LIMIT_MS
      while (traced === undefined && performance.now() < deadlineMs)
        await client.write(8 * BLOCK, new Uint8Array(BLOCK).fill(2))
      await client.disconnect()
      assert.equal(traced?.exitCode, 0, traced?.stderr)
      const records = traced.stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as PacketRecord)
      assert.equal(records.length, 6)
      const answer = records.findLast(({ type }) => type === 'P_WRITE_ACK')
      assert.ok(answer?.latencyMs !== undefined && answer.latencyMs > 0)
      const write = records.find(({ type, id }) => type === 'P_DATA' && id === answer.id)
      assert.deepEqual(
        [write?.direction, write?.stream, answer.direction, answer.stream],
        ['sent', 'data', 'received', 'meta'],
      )
      assert.deepEqual([write?.sector, write?.sizeBytes], [64, BLOCK])
    })

    test('trace counts packets, and how long their answers took', async () => {
      const client = await lab.connect('a')
      let traced: Awaited<ReturnType<typeof coprime>> | undefined
      const words = [
        'trace',
        'r0',
        '--json',
        '--totals',
        '-n',
        '40',
        '--kind',
        'write',
        '--control',
        lab.ready.a.control,
      ]
      void coprime(words).then((result) => {
        traced = result
      })
      const deadlineMs = performance.now() + LIMIT_MS
      while (traced === undefined && performance.now() < deadlineMs)
        await client.write(8 * BLOCK, new Uint8Array(BLOCK).fill(2))
      await client.disconnect()
      assert.equal(traced?.exitCode, 0, traced?.stderr)
      const { totals, missed } = JSON.parse(traced.stdout) as {
        totals: { type: string; packets: number; sizeBytes: number; latencyMsMean?: number; latencyMsMax?: number }[]
        missed: number
      }
      assert.equal(missed, 0)
      assert.deepEqual(totals.map(({ type }) => type).sort(), ['P_DATA', 'P_WRITE_ACK'])
      for (const { type, packets, sizeBytes, latencyMsMean = 0, latencyMsMax = 0 } of totals) {
        assert.ok(packets >= 19 && packets <= 21, `${packets} ${type}`)
        assert.equal(sizeBytes, packets * BLOCK)
        assert.equal(latencyMsMean > 0 && latencyMsMax >= latencyMsMean, type === 'P_WRITE_ACK', type)
      }
    })

    test('trace with totals has to know when it ends', async () => {
      const { exitCode, stderr } = await coprime(['trace', 'r0', '--totals', '--control', lab.ready.a.control])
      assert.notEqual(exitCode, 0)
      assert.match(stderr, /--totals needs --seconds or --count/)
    })

    test('a second lab in the folder is refused', async () => {
      const { exitCode, stdout, stderr } = await coprime(['lab', '--json', '--dir', lab.folder])
      assert.equal(exitCode, 20)
      assert.match(stderr, /a lab is running here already/)
      assert.doesNotMatch(stderr, /\n\s+at /)
      assert.equal((JSON.parse(stdout) as { error: string }).error, 'E_ALREADY_RUNNING')
    })

    test('after kill -9 of one side the other goes on, and the dead one comes back with all data', async () => {
      const client = await lab.connect('a')
      const startMs = performance.now()
      process.kill(lab.ready.b.pid, 'SIGKILL')
      await within(GOES_ON_MS, 'a write while b is dead', client.write(BLOCK, new Uint8Array(BLOCK).fill(0x21)))
      assert.ok(performance.now() - startMs < GOES_ON_MS)
      await client.disconnect()
      const { b } = await lab.command('restart', 'b')
      assert.ok(b.pid !== null && b.pid !== lab.ready.b.pid)
      pids.push(b.pid)
      await lab.whenPrimary('b')
      await expectByte(lab, 'b', BLOCK, 0x21)
      await expectByte(lab, 'b', 0, 0x12)
    })

    test('when the network is cut exactly one side goes on; healed and started again, both are Primary', async () => {
      const before = await lab.command('status')
      const gone = { a: before.a.pid, b: before.b.pid }
      const lost = (['a', 'b'] as const).map(
        (side) =>
          new Promise<SideName>((resolve) => {
            new ControlClient(lab.ready[side].control).watch(
              () => {},
              () => resolve(side),
            )
          }),
      )
      const cut = await lab.command('cut')
      assert.deepEqual(cut.link, { cut: true, delayMs: 0 })
      const loser = await within(LIMIT_MS, 'one side is fenced', Promise.race(lost))
      const winner = loser === 'a' ? 'b' : 'a'
      const client = await lab.connect(winner)
      await within(
        GOES_ON_MS,
        'a write while the link is cut',
        client.write(2 * BLOCK, new Uint8Array(BLOCK).fill(0x31)),
      )
      await client.disconnect()
      await whenGone(Number(gone[loser]))
      assert.ok(isRunning(Number(gone[winner])), 'the winner lives')
      await lab.command('heal')
      const restarted = await lab.command('restart', loser)
      pids.push(Number(restarted[loser].pid))
      await lab.whenPrimary('a')
      await lab.whenPrimary('b')
      await expectByte(lab, loser, 2 * BLOCK, 0x31)
    })

    test('a slow link slows writes down', async () => {
      const status = await lab.command('delay', '50')
      assert.equal(status.link.delayMs, 50)
      const client = await lab.connect('a')
      const startMs = performance.now()
      await within(LIMIT_MS, 'a slow write', client.write(3 * BLOCK, new Uint8Array(BLOCK).fill(0x41)))
      const tookMs = performance.now() - startMs
      assert.ok(tookMs >= 95, `a round trip of 100 ms took ${tookMs} ms`)
      await client.disconnect()
      await lab.command('delay', '0')
    })

    test('a link slower than the time-outs bear is refused, and how to have it is told', async () => {
      const { exitCode, stderr } = await coprime(['lab', '--dir', lab.folder, 'delay', '1000'])
      assert.equal(exitCode, 20)
      assert.match(stderr, /the time-outs of this lab allow 200 ms; for more start it with --link-delay-ms 1000/)
      assert.equal((await lab.command('status')).link.delayMs, 0)
    })

    test('stop ends it, and leaves no process behind', async () => {
      const { exitCode, stderr } = await coprime(['lab', 'stop', '--dir', lab.folder])
      assert.equal(exitCode, 0, stderr)
      assert.equal(await within(LIMIT_MS, 'end of the lab', lab.process.ended), 0)
      for (const pid of pids) assert.ok(!isRunning(pid), `process ${pid}`)
      const again = await coprime(['lab', 'status', '--dir', lab.folder])
      assert.equal(again.exitCode, 20)
      assert.match(again.stderr, /no lab is running here/)
    })

    test('the folder comes back with its data, and refuses another size', async () => {
      const other = await coprime(['lab', '--dir', lab.folder, '--size', '32M'])
      assert.equal(other.exitCode, 20)
      assert.match(other.stderr, /has disks of 16777216 bytes/)
      const second = newLab(lab.folder)
      await second.start()
      for (const side of ['a', 'b'] as const) {
        await expectByte(second, side, 0, 0x12)
        await expectByte(second, side, BLOCK, 0x21)
        await expectByte(second, side, 2 * BLOCK, 0x31)
        await expectByte(second, side, 3 * BLOCK, 0x41)
      }
      await second.end()
    })
  })

  describe('a lab that is killed', () => {
    test('takes its daemons with it; the next one finds what was confirmed on both sides', async () => {
      const folder = newFolder()
      const lab = newLab(folder, '--size', '8M')
      const line = await lab.start()
      await writeAndClose(lab, 'b', 5 * BLOCK, 0x51)
      lab.process.child.kill('SIGKILL')
      await within(LIMIT_MS, 'end of the lab', lab.process.ended)
      await whenGone(line.a.pid)
      await whenGone(line.b.pid)
      const next = newLab(folder)
      await next.start()
      await expectByte(next, 'a', 5 * BLOCK, 0x51)
      await expectByte(next, 'b', 5 * BLOCK, 0x51)
      await next.end()
    })
  })

  describe('a lab with --restart', () => {
    test('starts a killed side again, which becomes Primary', async () => {
      const lab = newLab(newFolder(), '--size', '8M', '--restart')
      const line = await lab.start()
      const survivor = new ControlClient(line.a.control)
      await lab.command('kill', 'b')
      // The survivor sees the peer come back, and then as Primary.
      const back = await survivor.waitFor((resources) => {
        const r0 = resources.get('r0')
        return r0?.connection === 'Connected' && r0.peerRole === 'Primary' && r0.volumes[0]?.peerDisk === 'UpToDate'
      }, LIMIT_MS)
      assert.ok(back)
      const { b } = await lab.command('status')
      assert.ok(b.pid !== null && b.pid !== line.b.pid)
      await lab.end()
      assert.ok(!isRunning(b.pid))
      assert.ok(!isRunning(line.a.pid))
    })
  })

  describe('a lab with one Primary', () => {
    test('protocol B: a is Primary, b refuses clients and says why', async () => {
      const lab = newLab(newFolder(), '--size', '8M', '--protocol', 'B')
      await lab.start()
      await writeAndClose(lab, 'a', 0, 0x61)
      await assert.rejects(lab.connect('b'), /r0 is Secondary on this host; run: coprime primary r0/)
      await lab.end()
    })
  })

  describe('a lab on a very slow link', () => {
    test('finds its two sides, and they stay connected', async () => {
      const lab = newLab(newFolder(), '--size', '8M', '--link-delay-ms', '1000')
      const line = await lab.start()
      // Longer than a keep-alive and its time-out.
      const lost = new ControlClient(line.a.control).waitFor((resources) => {
        const r0 = resources.get('r0')
        return r0?.connection !== 'Connected'
      }, SLOW_LINK_WATCHED_MS)
      await writeAndClose(lab, 'a', 0, 0x61)
      await writeAndClose(lab, 'b', BLOCK, 0x62)
      assert.equal(await lost, false, 'the connection was lost')
      await expectByte(lab, 'a', BLOCK, 0x62)
      await lab.end()
    })
  })

  describe('what a lab refuses', () => {
    const cases: readonly (readonly [args: readonly string[], message: RegExp])[] = [
      [['--order', 'coordinator', '--protocol', 'B'], /--order coordinator: needs --protocol C/],
      [['--order', 'anyhow'], /must be one of arbitration/],
      [['--size', '12'], /--size 12: must be 1M to 16T/],
      [['--protocol', 'D'], /--protocol D: must be one of A, B, C/],
      [['--link-delay-ms', 'long'], /--link-delay-ms long: must be 0 to 2000/],
      [['--dir', '/proc/nowhere'], /cannot be used as the folder of a lab/],
      [['nonsense'], /too many arguments|unknown command/],
    ]
    for (const [args, message] of cases) {
      test(args.join(' '), async () => {
        const { exitCode, stdout, stderr } = await coprime(['lab', '--dir', join(newFolder(), 'x'), ...args])
        assert.equal(exitCode, 20)
        assert.match(stderr, message)
        assert.doesNotMatch(stderr, /\n\s+at /)
        assert.equal(stdout, '')
      })
    }
  })

  describe('a folder with a long name of strange characters', () => {
    test('has its sockets elsewhere, where commands and the fencing agent find them', async () => {
      const folder = join(newFolder(), `it's "50%" & more ${'x'.repeat(120)}`)
      const lab = newLab(folder, '--size', '8M')
      const line = await lab.start()
      folders.push(join(line.link, '..'))
      assert.ok(line.link.length < 100)
      await writeAndClose(lab, 'a', 0, 0x71)
      const status = await lab.command('status')
      assert.equal(status.folder, folder)
      await lab.command('kill', 'b')
      await within(GOES_ON_MS, 'a write while b is dead', writeAndClose(lab, 'a', BLOCK, 0x72))
      await lab.end()
    })
  })
})
