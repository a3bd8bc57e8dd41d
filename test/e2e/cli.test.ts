// Goal: the daemon and the commands do, print and return what an administrator of DRBD expects (config-and-tools.md 2, 3, 4), and
// everything that can be wrong from outside ends in one clear line and the right exit code. Method: two daemons, alice and
// bob, from a resource file written by hand, with two resources and three volumes; commands in processes of their own.

import assert from 'node:assert/strict'
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import { freePorts } from '../../src/adapters/free-ports.ts'
import { connectNbd } from '../../src/adapters/nbd-client.ts'
import type { DaemonReady } from '../../src/control/api.ts'
import { ControlClient } from '../../src/control/client.ts'
import { ControlError } from '../../src/control/errors.ts'
import {
  coprime,
  type Finished,
  LIMIT_MS,
  LongRunning,
  type RunOptions,
  removeFolder,
  temporaryFolder,
  whenGone,
} from './processes.ts'

type Node = 'alice' | 'bob'

const MIB = 1024 * 1024
const folder = temporaryFolder()
const configFile = join(folder, 'two.res')
const daemons: LongRunning[] = []
let ports: number[] = []

// ---- the cluster ------------------------------------------------------------------------------------------------------

function hostText(resource: 'r0' | 'r1', node: Node, port: number): string {
  const minor = node === 'alice' ? 10 : 20
  const path = (name: string): string => join(folder, `${node}-${name}`)
  const volumes =
    resource === 'r0'
      ? `device /dev/drbd${minor} minor ${minor}; disk ${path('r0')}; meta-disk internal;`
      : `volume 0 { device minor ${minor + 1}; disk ${path('r1-0')}; meta-disk internal; }
         volume 1 { device minor ${minor + 2}; disk ${path('r1-1')}; meta-disk ${path('r1-1-md')}; }`
  return `on ${node} { address 127.0.0.1:${port}; ${volumes} }`
}

function configText(extra = ''): string {
  const [p0, p1, p2, p3] = ports as [number, number, number, number]
  return `global { disable-ip-verification; }
common { net { ping-int 1; connect-int 1; socket-check-timeout 1; } }
resource r0 {
  net { cram-hmac-alg sha256; shared-secret "not telling"; ${extra} }
  ${hostText('r0', 'alice', p0)}
  ${hostText('r0', 'bob', p1)}
}
resource r1 {
  ${hostText('r1', 'alice', p2)}
  ${hostText('r1', 'bob', p3)}
}
`
}

/** `fill`: not all zero, so that nobody can tell that two new disks are equal. */
function makeFile(path: string, sizeBytes: number, fill = false): void {
  const fd = openSync(path, 'w')
  ftruncateSync(fd, sizeBytes)
  closeSync(fd)
  if (fill) writeFileSync(path, Buffer.alloc(MIB, 0xa5), { flag: 'r+' })
}

const runtimeDir = (node: Node): string => join(folder, node)
const controlOf = (node: Node): ControlClient => new ControlClient(join(runtimeDir(node), 'control'))
const nodeOptions = (node: Node): string[] => ['-c', configFile, '--node', node, '--runtime-dir', runtimeDir(node)]

function on(node: Node, ...args: string[]): Promise<Finished> {
  return coprime([...nodeOptions(node), ...args])
}

/** Fails unless the command ends well; returns its output. */
async function good(node: Node, ...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await on(node, ...args)
  assert.equal(exitCode, 0, `${args.join(' ')}: ${stderr}`)
  return stdout
}

function assertRefused({ exitCode, stderr }: Finished, expected: { exitCode: number; message: RegExp }): void {
  assert.match(stderr, expected.message)
  assert.equal(exitCode, expected.exitCode, stderr)
  assert.doesNotMatch(stderr, /\n\s+at /, 'a stack trace')
}

async function startDaemon(node: Node, ...options: string[]): Promise<{ daemon: LongRunning; ready: DaemonReady }> {
  const args = [...nodeOptions(node), 'daemon', '--json', '--log-level', 'debug', '--dashboard', '127.0.0.1:0']
  const daemon = new LongRunning([...args, ...options])
  daemons.push(daemon)
  return { daemon, ready: JSON.parse(await daemon.firstLine()) as DaemonReady }
}

/** A daemon that is expected not to start. */
function refusedDaemon(...args: string[]): Promise<Finished> {
  return coprime(['--runtime-dir', join(folder, 'x'), ...args, 'daemon', '--dashboard', 'none', '--log-level', 'error'])
}

async function whenState(node: Node, resource: string, connection: string, disk: string): Promise<void> {
  const reached = await controlOf(node).waitFor((resources) => {
    const found = resources.get(resource)
    return found?.volumes.every((one) => one.connection === connection && one.disk === disk) ?? false
  }, LIMIT_MS)
  assert.ok(reached, `${resource} on ${node} is ${connection}, ${disk}`)
}

// One suite around all: its last hook runs also when something has failed and keeps this process from ending.
describe('daemon and commands', () => {
  before(async () => {
    ports = await freePorts(4)
    writeFileSync(configFile, configText())
    for (const node of ['alice', 'bob'] as const) {
      makeFile(join(folder, `${node}-r0`), 8 * MIB, true)
      makeFile(join(folder, `${node}-r1-0`), 4 * MIB)
      makeFile(join(folder, `${node}-r1-1`), 4 * MIB)
      makeFile(join(folder, `${node}-r1-1-md`), 2 * MIB)
    }
  })

  after(() => {
    for (const { child } of daemons) child.kill('SIGKILL')
    removeFolder(folder)
  })

  // ---- a life of two hosts ------------------------------------------------------------------------------------------------

  describe('two hosts, from new disks to down', () => {
    let dashboard = ''

    test('without a daemon commands say so', async () => {
      assertRefused(await on('alice', 'status'), {
        exitCode: 20,
        message: /no daemon at .*alice\/control.*coprime daemon/,
      })
      assertRefused(await on('alice', 'dstate', 'r0'), { exitCode: 1, message: /no metadata found/ })
    })

    test('the daemons start, and have nothing up', async () => {
      const [{ ready }] = await Promise.all([startDaemon('alice'), startDaemon('bob')])
      assert.equal(ready.host, 'alice')
      assert.deepEqual(ready.resources, ['r0', 'r1'])
      assert.equal(statSync(ready.control).mode & 0o777, 0o600)
      dashboard = ready.dashboard ?? ''
      assert.equal(await good('alice', 'status'), '# No currently configured DRBD found.\n')
      assert.equal(await good('alice', 'role', 'r0'), 'Unconfigured\n')
      assertRefused(await on('alice', 'status', 'r0'), {
        exitCode: 10,
        message: /^r0: No such resource: .*coprime up r0/,
      })
    })

    test('up without metadata is error 119', async () => {
      assertRefused(await on('alice', 'up', 'r0'), {
        exitCode: 10,
        message: /^r0: Failure: \(119\) No valid meta-data signature found: .*create-md/,
      })
      await good('alice', 'down', 'r0')
    })

    test('create-md writes metadata, once', async () => {
      assert.equal(
        await good('alice', 'create-md', 'r0'),
        'initializing activity log\ninitializing bitmap (4 KB) to all zero\nWriting meta data...\nNew drbd meta data block successfully created.\n',
      )
      await good('alice', 'create-md', 'r1')
      await good('bob', 'create-md', 'all')
      assertRefused(await on('alice', 'create-md', 'r0'), { exitCode: 1, message: /metadata \(v08\) already.*--force/ })
      assert.deepEqual(JSON.parse(await good('alice', '--json', 'create-md', '--force', 'r1')), {
        created: ['r1/0', 'r1/1'],
      })
      assert.equal(
        await good('alice', 'get-gi', 'r0'),
        `0000000000000004:${'0'.repeat(16)}:${'0'.repeat(16)}:${'0'.repeat(16)}:0:0:0:0:0:0:0\n`,
      )
    })

    test('up, and wait-connect', async () => {
      await good('alice', 'up', 'all')
      assertRefused(await on('alice', 'wait-connect', '-t', '0.3', 'r0'), {
        exitCode: 5,
        message: /not within 0.3 seconds/,
      })
      assert.equal(await good('alice', 'cstate', 'r0'), 'WFConnection\n')
      const waiting = on('alice', 'wait-connect', 'all')
      await good('bob', 'up', 'all')
      assert.equal((await waiting).exitCode, 0)
      assert.equal(await good('bob', 'up', 'r0'), '', 'a second up changes nothing')
      assertRefused(await on('bob', 'create-md', '--force', 'r0'), {
        exitCode: 20,
        message: /is in use by another daemon/,
      })
    })

    test('new disks: equal if they are known to be all zero, else by new-current-uuid --clear-bitmap', async () => {
      await whenState('alice', 'r1', 'Connected', 'UpToDate')
      await whenState('alice', 'r0', 'Connected', 'Inconsistent')
      assert.equal(
        await good('alice', 'dstate', 'all'),
        'Inconsistent/Inconsistent\nUpToDate/UpToDate\nUpToDate/UpToDate\n',
      )
      assertRefused(await on('alice', 'primary', 'r0'), {
        exitCode: 17,
        message: /^r0: State change failed: \(-2\) Need access to UpToDate data/,
      })
      await good('alice', '--', '--clear-bitmap', 'new-current-uuid', 'r0/0')
      await whenState('bob', 'r0', 'Connected', 'UpToDate')
      assert.equal(await good('bob', 'wait-sync', 'all'), '')
    })

    test('roles, and one Primary only', async () => {
      await good('alice', 'primary', 'all')
      assert.equal(await good('alice', 'role', 'r0'), 'Primary/Secondary\n')
      assert.equal(await good('bob', 'role', 'minor-20'), 'Secondary/Primary\n')
      assertRefused(await on('bob', 'primary', 'r0'), {
        exitCode: 11,
        message: /^r0: State change failed: \(-1\) Multiple primaries not allowed by config/,
      })
      const json = await on('bob', '--json', 'primary', 'r0')
      const [result] = JSON.parse(json.stdout) as { object: string; code: number; exitCode: number }[]
      assert.deepEqual([result?.object, result?.code, result?.exitCode], ['r0', -1, 11])
    })

    test('status, as text', async () => {
      assert.equal(
        await good('alice', 'status'),
        `r0 role:Primary
  disk:UpToDate open:no
  bob role:Secondary
    peer-disk:UpToDate

r1 role:Primary
  volume:0 disk:UpToDate open:no
  volume:1 disk:UpToDate open:no
  bob role:Secondary
    volume:0 peer-disk:UpToDate
    volume:1 peer-disk:UpToDate
`,
      )
      const verbose = await good('bob', 'status', '-v', '-s', 'r0')
      assert.match(
        verbose,
        /^r0 node-id:1 role:Secondary suspended:no force-io-failures:no\n {4}write-ordering:flush\n {2}volume:0 minor:20 /,
      )
      assert.match(verbose, /replication:Established peer-disk:UpToDate/)
    })

    test('status, as JSON', async () => {
      const resources = JSON.parse(await good('alice', 'status', '--json')) as {
        name: string
        role: string
        devices: { volume: number; minor: number; 'disk-state': string; size: number }[]
        connections: { name: string; 'connection-state': string; peer_devices: object[] }[]
      }[]
      assert.deepEqual(
        resources.map(({ name, role }) => [name, role]),
        [
          ['r0', 'Primary'],
          ['r1', 'Primary'],
        ],
      )
      assert.deepEqual(
        resources[1]?.devices.map((device) => [device.volume, device.minor, device['disk-state'], device.size]),
        [
          [0, 11, 'UpToDate', 4056],
          [1, 12, 'UpToDate', 4096],
        ],
      )
      const connection = resources[0]?.connections[0]
      assert.equal(connection?.name, 'bob')
      assert.equal(connection?.['connection-state'], 'Connected')
      assert.equal(resources[1]?.connections[0]?.peer_devices.length, 2)
    })

    test('exports: by volume, and refused on a Secondary', async () => {
      const alice = { socketPath: join(runtimeDir('alice'), 'r1.nbd') }
      const client = await connectNbd({ ...alice, exportName: 'r1/1' })
      assert.equal(client.sizeBytes, 4 * MIB)
      await client.write(4096, new Uint8Array(4096).fill(7))
      assert.deepEqual(await client.blockStatus(0, 4 * MIB), [
        { lengthBytes: 4096, status: 3 },
        { lengthBytes: 4096, status: 0 },
        { lengthBytes: 4 * MIB - 8192, status: 3 },
      ])
      await client.disconnect()
      assert.deepEqual(readFileSync(join(folder, 'bob-r1-1')).subarray(4096, 8192), Buffer.alloc(4096, 7))
      await assert.rejects(connectNbd(alice), /there is no export ''.*r1\/0, r1\/1/)
      const bob = { socketPath: join(runtimeDir('bob'), 'r0.nbd'), exportName: 'r0' }
      await assert.rejects(connectNbd(bob), /r0 is Secondary on this host; run: coprime primary r0/)
    })

    test('no demotion while a client is there, unless by force', async () => {
      const client = await connectNbd({ socketPath: join(runtimeDir('alice'), 'r0.nbd'), exportName: 'r0' })
      const refused = { exitCode: 11, message: /^r0: State change failed: \(-12\) Device is held open by someone/ }
      assertRefused(await on('alice', 'secondary', 'r0'), refused)
      assertRefused(await on('alice', 'down', 'r0'), refused)
      assert.match(await good('alice', 'status', 'r0'), /open:yes/)
      await good('alice', 'secondary', '--force', 'r0')
      assert.equal(await good('alice', 'role', 'r0'), 'Secondary/Secondary\n')
      await assert.rejects(client.read(0, 4096), /shutting down|closed|not connected/)
      await good('bob', 'primary', 'r0')
      await good('bob', 'secondary', 'r0')
    })

    test('metrics and page', async () => {
      const metrics = await (await fetch(`${dashboard}metrics`)).text()
      for (const line of [
        'drbdreactor_up 1',
        'drbd_resource_resources 2',
        'drbd_resource_role{name="r1",drbd_resource_role="Primary"} 1',
        'drbd_connection_state{name="r0",conn_name="bob",peer_node_id="1",drbd_connection_state="Connected"} 1',
        'drbd_device_state{name="r0",volume="0",minor="10",drbd_device_state="UpToDate"} 1',
        'drbd_device_size_bytes{name="r1",volume="1",minor="12"} 4194304',
        'drbd_peerdevice_outofsync_bytes{name="r0",conn_name="bob",peer_node_id="1",volume="0"} 0',
        'coprime_device_superseded_total{name="r1",volume="1",minor="12"} 0',
      ]) {
        assert.ok(metrics.split('\n').includes(line), `${line}\n${metrics}`)
      }
      assert.match(await (await fetch(dashboard)).text(), /r1: <span class="good">Primary/)
      const change = await fetch(`${dashboard}resources/r0/commands`, { method: 'POST', body: '{"command":"down"}' })
      assert.equal(change.status, 404, 'the dashboard only reads')
    })

    test('requests that are none are refused', async () => {
      const alice = controlOf('alice')
      for (const body of [{}, { command: 'explode' }, { command: 'up', volume: '0' }, { command: 'up', more: 1 }]) {
        const isRefused = (error: unknown): boolean => error instanceof ControlError && error.status === 400
        await assert.rejects(alice.post('/resources/r0/commands', body), isRefused, JSON.stringify(body))
      }
      await assert.rejects(alice.link({ cut: true }), /not found/i, 'only a lab can cut its link')
    })

    test('disconnect, outdate, connect, invalidate and wait-sync', async () => {
      assertRefused(await on('bob', 'outdate', 'r0'), {
        exitCode: 11,
        message: /\(-6\) Refusing to be Outdated while Connected/,
      })
      await good('bob', 'disconnect', 'r0')
      assert.equal(await good('bob', 'cstate', 'r0'), 'StandAlone\n')
      await good('bob', 'disconnect', 'r0')
      await good('bob', 'outdate', 'r0')
      assert.equal(await good('bob', 'dstate', 'r0'), 'Outdated/DUnknown\n')
      assert.equal(
        await good('bob', 'status', 'r0'),
        'r0 role:Secondary\n  disk:Outdated open:no\n  alice connection:StandAlone\n',
      )
      await good('bob', 'connect', 'r0')
      assertRefused(await on('bob', 'connect', 'r0'), { exitCode: 10, message: /\(125\) Connection exists already/ })
      await good('bob', 'wait-sync', '-t', '15', 'r0')
      assert.equal(await good('bob', 'dstate', 'r0'), 'UpToDate/UpToDate\n')
      await good('bob', 'invalidate', 'r0')
      await good('bob', 'wait-sync', '-t', '15', 'r0')
      assert.equal(await good('bob', 'dstate', 'r0'), 'UpToDate/UpToDate\n')
    })

    test('unknown names and words', async () => {
      assertRefused(await on('alice', 'primary', 'r9'), {
        exitCode: 10,
        message: /^r9: Failure: \(158\) Unknown resource/,
      })
      assertRefused(await on('alice', 'attach', 'r0/7'), {
        exitCode: 10,
        message: /^r0\/7: Failure: \(127\) Minor is not allocated/,
      })
      assertRefused(await on('alice', 'status', 'nosuch'), { exitCode: 10, message: /^nosuch: No such resource/ })
      assertRefused(await on('alice', 'wait-connect', 'r9'), { exitCode: 10, message: /\(158\)/ })
      assertRefused(await on('alice', 'primery', 'r0'), { exitCode: 20, message: /unknown command 'primery'/ })
      assertRefused(await on('alice', 'primary'), { exitCode: 20, message: /missing required argument/ })
      assertRefused(await on('alice', 'wait-sync', '-t', 'soon', 'r0'), {
        exitCode: 20,
        message: /no number of seconds/,
      })
      assertRefused(await on('alice', 'dump', 'r9'), { exitCode: 1, message: /'r9' not defined in your config/ })
    })

    test('detach and attach one volume', async () => {
      await good('bob', 'detach', 'r1/1')
      assert.equal(await good('bob', 'dstate', 'r1'), 'UpToDate/UpToDate\nDiskless/UpToDate\n')
      await good('bob', 'attach', 'r1/1')
      assertRefused(await on('bob', 'attach', 'r1/1'), { exitCode: 10, message: /^r1\/1: Failure: \(124\)/ })
      await good('bob', 'wait-sync', '-t', '15', 'r1')
      assert.equal(await good('bob', 'dstate', 'r1/1'), 'UpToDate/UpToDate\n')
    })

    test('dump can be read again', async () => {
      const dump = await good('alice', 'dump')
      const path = join(folder, 'dumped.res')
      writeFileSync(path, dump)
      const again = await coprime(['-c', path, '--node', 'alice', 'dump'])
      assert.equal(again.exitCode, 0, again.stderr)
      const withoutPlaces = (text: string): string => text.replaceAll(/^# (?:defined at )?\/.*\n/gm, '')
      assert.equal(withoutPlaces(again.stdout), withoutPlaces(dump))
      const fromInput = await coprime(['-c', '-', '--node', 'alice', 'dump', 'r0'], { input: dump })
      assert.match(fromInput.stdout, /^# resource r0 on alice: not ignored, not stacked/)
    })

    test('a daemon that is killed leaves its sockets; the next one takes them, and brings all up', async () => {
      const bob = daemons[1]
      assert.ok(bob?.child.pid)
      await bob.end('SIGKILL')
      await whenGone(bob.child.pid)
      assert.ok(statSync(join(runtimeDir('bob'), 'control')).isSocket())
      await startDaemon('bob', '--up')
      await good('bob', 'wait-connect', '-t', '15', 'all')
      await good('bob', 'wait-sync', '-t', '15', 'all')
      assert.equal(await good('bob', 'dstate', 'all'), 'UpToDate/UpToDate\n'.repeat(3))
    })

    test('SIGTERM: down, and exit code 0; the metadata can be read by anyone then', async () => {
      await good('alice', 'down', 'r0')
      assert.equal(await good('alice', 'down', 'r0'), '')
      for (const daemon of daemons.filter(({ child }) => child.exitCode === null && child.signalCode === null)) {
        assert.equal(await daemon.end(), 0, daemon.stderr)
      }
      assert.equal(await good('alice', 'dstate', 'r0'), 'Consistent\n')
      assert.match(
        await good('alice', 'show-gi', 'r0'),
        /Current data generation UUID[\s\S]*:1:1:0:[01]:0:[01]:0\n[\s\S]*meta-data:/,
      )
      for (const node of ['alice', 'bob'] as const) {
        await assert.rejects(controlOf(node).status(), /no daemon at/)
        assert.throws(() => statSync(join(runtimeDir(node), 'r0.nbd')), /ENOENT/)
      }
    })
  })

  // ---- what is wrong from outside -------------------------------------------------------------------------------------------

  describe('what a daemon refuses at its start', () => {
    const config = (text: string): string => {
      const path = join(folder, 'bad.res')
      writeFileSync(path, text)
      return path
    }

    test('configurations', async () => {
      const alice = ['--node', 'alice']
      assertRefused(await refusedDaemon('-c', join(folder, 'none.res'), ...alice), {
        exitCode: 20,
        message: /Can not open/,
      })
      const unknown = config('resource r0 {\n  net { pingint 3; }\n}\n')
      assertRefused(await refusedDaemon('-c', unknown, ...alice), {
        exitCode: 10,
        message: /bad\.res:2: Parse error[\s\S]*ping-int/,
      })
      assertRefused(await refusedDaemon('-c', configFile, '--node', 'carol'), {
        exitCode: 10,
        message: /no resource has a section for host 'carol' \(resources: r0, r1\)/,
      })
      const noOrder = config(configText().replaceAll('ping-int 1;', 'ping-int 1; global-write-order best;'))
      assertRefused(await refusedDaemon('-c', noOrder, ...alice), {
        exitCode: 10,
        message: /bad\.res:\d+: Parse error[\s\S]*coordinator/,
      })
    })

    test('sockets', async () => {
      const long = join(folder, 'x'.repeat(110))
      const args = ['-c', configFile, '--node', 'alice']
      assertRefused(await refusedDaemon(...args, '--runtime-dir', long), { exitCode: 20, message: /the limit is 107/ })
      const occupied = join(folder, 'occupied')
      writeFileSync(occupied, '')
      assertRefused(await refusedDaemon(...args, '--control', occupied), { exitCode: 20, message: /is not a socket/ })
      assert.equal(readFileSync(occupied, 'utf8'), '')
      assertRefused(await refusedDaemon(...args, '--runtime-dir', '/proc/none'), {
        exitCode: 20,
        message: /cannot be created/,
      })
    })

    test('options', async () => {
      const daemon = (...options: string[]): Promise<Finished> =>
        coprime(['-c', configFile, '--node', 'alice', '--runtime-dir', join(folder, 'y'), 'daemon', ...options])
      assertRefused(await daemon('--log-level', 'loud'), { exitCode: 20, message: /--log-level loud: must be one of/ })
      assertRefused(await daemon('--log-file', '/proc/none/log'), {
        exitCode: 20,
        message: /--log-file \/proc\/none\/log: /,
      })
      assertRefused(await daemon('--dashboard', 'here'), {
        exitCode: 20,
        message: /--dashboard here: must be HOST:PORT/,
      })
    })
  })

  describe('what a resource refuses', () => {
    const up = async (
      text: string,
      check: (control: string) => Promise<void>,
      options: RunOptions = {},
    ): Promise<void> => {
      const path = join(folder, 'case.res')
      writeFileSync(path, text)
      const runtime = join(folder, 'case')
      const args = ['-c', path, '--node', 'alice', '--runtime-dir', runtime, 'daemon', '--dashboard', 'none', '--json']
      const daemon = new LongRunning(args, options)
      daemons.push(daemon)
      await daemon.firstLine()
      await check(join(runtime, 'control'))
      assert.equal(await daemon.end(), 0, daemon.stderr)
    }
    const command = (control: string, ...args: string[]): Promise<Finished> => coprime(['--control', control, ...args])

    test('disks', async () => {
      const small = join(folder, 'alice-r1-0')
      await up(configText(), async (control) => {
        // Two daemons on one disk: the second one has another runtime folder, and the same configuration.
        const { daemon } = await startDaemon('alice', '--up')
        await whenState('alice', 'r0', 'WFConnection', 'UpToDate')
        assertRefused(await command(control, 'up', 'r0'), {
          exitCode: 10,
          message: /^r0: Failure: \(114\) .*in use by another daemon/,
        })
        await daemon.end()
        // Metadata of a disk that was larger: it stood at the end, which is gone.
        truncateSync(small, 3 * MIB)
        assertRefused(await command(control, 'attach', 'r1/0'), { exitCode: 10, message: /^r1\/0: Failure: \(119\)/ })
      })
      const missing = configText().replaceAll(join(folder, 'alice-r0'), join(folder, 'missing'))
      await up(missing, async (control) => {
        assertRefused(await command(control, 'up', 'r0'), {
          exitCode: 10,
          message: /^r0: Failure: \(104\) Cannot open backing device: .*missing: cannot be found/,
        })
      })
      const directory = configText().replaceAll(join(folder, 'alice-r0'), folder)
      await up(directory, async (control) => {
        assertRefused(await command(control, 'up', 'r0'), {
          exitCode: 10,
          message: /\(104\) .*is a directory, not a block device/,
        })
      })
    })

    test('a disk that has no room for metadata', async () => {
      await up(configText(), async (control) => {
        makeFile(join(folder, 'alice-r1-0'), 512)
        assertRefused(await command(control, 'attach', 'r1/0'), {
          exitCode: 10,
          message: /^r1\/0: Failure: \(11[12]\)/,
        })
      })
    })

    test('a disk that is read-only', async () => {
      // Root may write to any file, unless it gives that up.
      const through = process.getuid?.() === 0 ? ['setpriv', '--bounding-set', '-dac_override'] : []
      const path = join(folder, 'readonly')
      makeFile(path, 4 * MIB)
      chmodSync(path, 0o444)
      const check = async (control: string): Promise<void> => {
        assertRefused(await command(control, 'up', 'r0'), {
          exitCode: 10,
          message: /\(104\) .*may be read but not written/,
        })
      }
      await up(configText().replaceAll(join(folder, 'alice-r0'), path), check, { through })
    })

    test('a replication port that is taken', async () => {
      const taken = createServer()
      await new Promise<void>((resolve) => taken.listen({ host: '127.0.0.1', port: ports[0] as number }, resolve))
      try {
        await up(configText(), async (control) => {
          assertRefused(await command(control, 'connect', 'r0'), {
            exitCode: 10,
            message: /^r0: Failure: \(102\) Local address and port already in use: 127\.0\.0\.1:/,
          })
        })
      } finally {
        await new Promise((resolve) => taken.close(resolve))
      }
    })

    test('settings that contradict each other', async () => {
      for (const [extra, message] of [
        ['protocol A; allow-two-primaries;', /\(139\) Protocol C required/],
        ['cram-hmac-alg rot13;', /\(120\) /],
        ['verify-alg rot13;', /\(146\) /],
      ] as const) {
        await up(configText(extra), async (control) => {
          assertRefused(await command(control, 'connect', 'r0'), { exitCode: 10, message })
        })
      }
    })

    test('a second daemon in the same folder', async () => {
      await up(configText(), async (control) => {
        const args = ['-c', join(folder, 'case.res'), '--node', 'alice', '--control', control]
        assertRefused(await refusedDaemon(...args), {
          exitCode: 20,
          message: /a daemon is running already: it answers at/,
        })
      })
    })
  })
})
