// Goal: other people's NBD programs agree with our server: negotiation, data, holes, flags, errors, many connections.
// Method: two disks in memory behind a real NbdServer on a unix socket and a TCP port; completions come later and out of
// order; nbdinfo, nbdcopy, qemu-img, qemu-io, libnbd for Python and fio as clients. A missing program is a skip.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { connectNbd } from '../../src/adapters/nbd-client.ts'
import { NbdServer } from '../../src/adapters/nbd-server.ts'
import { Prng } from '../../src/base/prng.ts'
import { MemoryDisk, MemoryExports } from '../support/nbd-memory-export.ts'
import { counted, option, request, u16, u32 } from '../support/nbd-peer.ts'
import { type Finished, missingPrograms, mustRun, type RunOptions, runProgram } from '../support/programs.ts'

const MIB = 1024 * 1024
const DISK_BYTES = 40 * MIB

let folder = ''
let server: NbdServer
let disk: MemoryDisk
let frozen: MemoryDisk
let unixUri = ''
let tcpUri = ''
let tcpPort = 0

const prng = new Prng(20)
const later = (run: () => void): void => {
  setImmediate(run)
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'nbd-interop-'))
  disk = new MemoryDisk(DISK_BYTES, later)
  disk.pick = (count) => prng.intInclusive(0, count - 1)
  frozen = new MemoryDisk(MIB, later)
  frozen.readOnly = true
  const path = join(folder, 'nbd.sock')
  server = new NbdServer({
    exports: new MemoryExports({ r0: disk, frozen }),
    listen: [
      { type: 'unix', path },
      { type: 'tcp', host: '127.0.0.1', port: 0 },
    ],
  })
  const [, tcp] = await server.listen()
  assert.ok(tcp?.type === 'tcp')
  tcpPort = tcp.port
  unixUri = `nbd+unix:///r0?socket=${path}`
  tcpUri = `nbd://127.0.0.1:${tcpPort}/r0`
})

after(async () => {
  await server.close()
  assert.equal(disk.openCount + frozen.openCount, 0, 'every export was closed again')
  rmSync(folder, { recursive: true, force: true })
})

/** An empty disk for each test. */
beforeEach(() => {
  const whole = { type: 'zero', volume: 0, sector: 0, sectors: DISK_BYTES / 512, unmap: true, fua: false } as const
  disk.schedule = undefined
  disk.submit(whole, () => {})
  disk.completeAll()
  disk.schedule = later
  disk.requests.length = 0
})

const options = (): RunOptions => ({ timeoutMs: 60_000, cwd: folder })
const run = (program: string, args: readonly string[]): Promise<Finished> => runProgram(program, args, options())

/** Runs a program that must succeed. */
const ok = async (program: string, args: readonly string[]): Promise<string> =>
  (await mustRun(program, args, options())).stdout

function randomImage(name: string, lengthBytes: number, seed: number): string {
  const path = join(folder, name)
  const bytes = new Uint8Array(lengthBytes)
  const words = new Uint32Array(bytes.buffer)
  const random = new Prng(seed)
  for (let i = 0; i < words.length; i++) words[i] = random.u32()
  bytes.fill(0, MIB, 3 * MIB) // something to skip
  writeFileSync(path, bytes)
  return path
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

const bothUris = (): [string, string][] => [
  ['unix', unixUri],
  ['tcp', tcpUri],
]

describe('nbdinfo', { skip: missingPrograms('nbdinfo') }, () => {
  const wanted = {
    'export-name': 'r0',
    description: 'memory disk r0',
    contexts: ['base:allocation'],
    is_rotational: false,
    is_read_only: false,
    can_cache: true,
    can_df: true,
    can_fast_zero: true,
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
    block_size_minimum: 512,
    block_size_preferred: 4096,
    block_size_maximum: 32 * MIB,
    'export-size': DISK_BYTES,
  }

  test('--json on both transports', async () => {
    for (const [, uri] of bothUris()) {
      const info = JSON.parse(await ok('nbdinfo', ['--json', '--no-content', uri]))
      assert.equal(info.protocol, 'newstyle-fixed')
      assert.equal(info.structured, true)
      assert.equal(info.TLS, false)
      for (const [key, value] of Object.entries(wanted)) assert.deepEqual(info.exports[0][key], value, key)
    }
  })

  test('--list names all exports; a read-only one cannot be written', async () => {
    const list = JSON.parse(await ok('nbdinfo', ['--list', '--json', '--no-content', `nbd://127.0.0.1:${tcpPort}`]))
    assert.deepEqual(
      list.exports.map((entry: Record<string, unknown>) => [
        entry['export-name'],
        entry['description'],
        entry['is_read_only'],
        entry['can_trim'],
        entry['can_zero'],
      ]),
      [
        ['r0', 'memory disk r0', false, true, true],
        ['frozen', 'memory disk frozen', true, false, false],
      ],
    )
  })

  test('--size, the default export, an unknown export', async () => {
    assert.equal(await ok('nbdinfo', ['--size', unixUri]), `${DISK_BYTES}\n`)
    assert.equal(await ok('nbdinfo', ['--size', `nbd://127.0.0.1:${tcpPort}`]), `${DISK_BYTES}\n`)
    const unknown = await run('nbdinfo', ['--size', unixUri.replace('r0', 'nobody')])
    assert.equal(unknown.code, 1)
    assert.match(unknown.stderr, /no export named 'nobody'/)
  })

  test('--can and --is, each flag', async () => {
    const frozenUri = tcpUri.replace('r0', 'frozen')
    const yes = ['cache', 'connect', 'df', 'fast-zero', 'flush', 'fua', 'multi-conn', 'read', 'trim', 'write', 'zero']
    for (const flag of yes) assert.equal((await run('nbdinfo', ['--can', flag, unixUri])).code, 0, flag)
    for (const flag of ['read-only', 'rotational', 'tls']) {
      assert.equal((await run('nbdinfo', ['--is', flag, unixUri])).code, 2, flag)
    }
    assert.equal((await run('nbdinfo', ['--is', 'read-only', frozenUri])).code, 0)
    for (const flag of ['write', 'trim', 'zero']) {
      assert.equal((await run('nbdinfo', ['--can', flag, frozenUri])).code, 2, flag)
    }
  })

  test('--map shows data and holes', async () => {
    disk.schedule = undefined
    disk.submit({ type: 'write', volume: 0, sector: 8, data: new Uint8Array(8192).fill(1), fua: false }, () => {})
    disk.completeAll()
    disk.schedule = later
    assert.deepEqual(JSON.parse(await ok('nbdinfo', ['--map', '--json', unixUri])), [
      { offset: 0, length: 4096, type: 3, description: 'hole,zero' },
      { offset: 4096, length: 8192, type: 0, description: 'data' },
      { offset: 12288, length: DISK_BYTES - 12288, type: 3, description: 'hole,zero' },
    ])
  })
})

describe('nbdcopy', { skip: missingPrograms('nbdcopy') }, () => {
  for (const transport of ['unix', 'tcp'] as const) {
    test(`both ways over ${transport}, with several connections`, async () => {
      const uri = transport === 'unix' ? unixUri : tcpUri
      const image = randomImage('copy.img', DISK_BYTES, 1)
      const before = server.status.acceptedCount
      await ok('nbdcopy', ['--flush', image, uri])
      assert.ok(server.status.acceptedCount - before > 1, 'nbdcopy used one connection only: no multi-conn?')
      assert.equal(digest(disk.bytes), digest(readFileSync(image)))
      const back = join(folder, 'back.img')
      await ok('nbdcopy', [uri, back])
      assert.equal(digest(readFileSync(back)), digest(disk.bytes))
      assert.ok(disk.requests.some((one) => one.type === 'flush'))
    })
  }

  test('from one connection to the other, synchronously', async () => {
    const image = randomImage('copy2.img', DISK_BYTES, 2)
    await ok('nbdcopy', ['--synchronous', '--connections=1', image, unixUri])
    assert.equal(digest(disk.bytes), digest(readFileSync(image)))
  })
})

describe('qemu-img', { skip: missingPrograms('qemu-img') }, () => {
  test('convert there and back, compare, map', async () => {
    for (const [transport, uri] of bothUris()) {
      const image = randomImage(`qemu-${transport}.img`, DISK_BYTES, 3)
      await ok('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri])
      await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri])
      const back = join(folder, `qemu-${transport}.qcow2`)
      await ok('qemu-img', ['convert', '-W', '-m', '16', '-f', 'raw', '-O', 'qcow2', uri, back])
      await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', image, back])
      const map: { start: number; length: number; zero: boolean }[] = JSON.parse(
        await ok('qemu-img', ['map', '-f', 'raw', '--output=json', uri]),
      )
      const zeroBytes = map.filter((extent) => extent.zero).reduce((sum, extent) => sum + extent.length, 0)
      assert.equal(zeroBytes, 2 * MIB, 'the hole of the image is a hole here too')
    }
  })

  test('info, and a difference is found', async () => {
    const info = JSON.parse(await ok('qemu-img', ['info', '-f', 'raw', '--output=json', tcpUri]))
    assert.equal(info['virtual-size'], DISK_BYTES)
    const image = randomImage('differs.img', DISK_BYTES, 4)
    assert.equal((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, unixUri])).code, 1)
  })
})

describe('qemu-io', { skip: missingPrograms('qemu-io') }, () => {
  // Without writeback qemu-io sends every write with FUA.
  const commands = (...list: string[]): string[] => [
    '-f',
    'raw',
    '-t',
    'writeback',
    unixUri,
    ...list.flatMap((command) => ['-c', command]),
  ]

  test('patterns, FUA, discard, zeroes with and without hole, unaligned', async () => {
    const output = await ok(
      'qemu-io',
      commands(
        'write -P 0xab 0 1M',
        'read -P 0xab 0 1M',
        'write -f -P 0x11 1M 4k',
        'read -P 0x11 1M 4k',
        'write -z 0 64k',
        'read -P 0 0 64k',
        'write -z -u 64k 64k',
        'read -P 0 64k 64k',
        'discard 128k 64k',
        'read -P 0 128k 64k',
        'write -P 0x5a 1000 3000',
        'read -P 0x5a 1000 3000',
        'read -P 0 0 1000',
        'read -P 0 4000 60k',
        'aio_write -P 1 2M 3M',
        'aio_write -P 2 8M 7777',
        'aio_flush',
        'read -P 1 2M 3M',
        'read -P 2 8M 7777',
        'flush',
      ),
    )
    assert.doesNotMatch(output, /failed/i)
    const fua = disk.requests.find((one) => one.type === 'write' && one.fua)
    assert.ok(fua?.type === 'write' && fua.sector === 2048 && fua.data.length === 4096)
    const zeroes = disk.requests.filter((one) => one.type === 'zero')
    assert.deepEqual(
      zeroes.map((one) => [one.sector, one.sectors, one.unmap]),
      [
        [0, 128, false],
        [128, 128, true],
        [256, 128, true],
      ],
    )
    assert.ok(disk.requests.some((one) => one.type === 'flush'))
  })

  test('beyond the end and on a read-only export: an error, not a hang', async () => {
    const beyond = await run('qemu-io', commands(`write -P 1 ${DISK_BYTES} 512`))
    assert.match(beyond.stdout + beyond.stderr, /failed|past end|out of range|cannot/i)
    const readOnly = await run('qemu-io', ['-f', 'raw', tcpUri.replace('r0', 'frozen'), '-c', 'write -P 1 0 512'])
    assert.notEqual(readOnly.code, 0)
    assert.equal(frozen.requests.filter((one) => one.type === 'write').length, 0)
  })
})

/** Helpers for the scripts: what a call fails with, or its result. */
const PYTHON_PRELUDE = `
import errno
def outcome(call, *args, **named):
    try:
        return call(*args, **named)
    except nbd.Error as error:
        return error.errno
def same(got, want):
    assert got == want, "got %r, wanted %r" % (got, want)
`

/** The Python that has libnbd's module: not always the first in PATH. */
const python = ['python3', '/usr/bin/python3'].find((one) => spawnSync(one, ['-c', 'import nbd']).status === 0)

async function libnbd(script: string): Promise<void> {
  assert.ok(python !== undefined)
  const path = join(folder, 'script.py')
  const uris = `URI = ${JSON.stringify(unixUri)}\nTCP = ${JSON.stringify(tcpUri)}\n`
  writeFileSync(path, `import nbd\n${PYTHON_PRELUDE}\n${uris}\n${script}`)
  await ok(python, [path])
}

describe('libnbd', { skip: python === undefined ? 'python3-libnbd is not installed' : false }, () => {
  test('requests that a client must not send: the right error, and the connection goes on', async () => {
    await libnbd(`
h = nbd.NBD()
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
size = h.get_size()
same(size, ${DISK_BYTES})
same(outcome(h.pread, 512, size), "EINVAL")
same(outcome(h.pread, 512, 2**63), "EINVAL")
same(outcome(h.pread, 1024, size - 512), "EINVAL")
same(outcome(h.pwrite, bytes(512), size), "ENOSPC")
same(outcome(h.pwrite, bytes(1024), size - 512), "ENOSPC")
same(outcome(h.zero, 1024, size - 512), "ENOSPC")
same(outcome(h.trim, 1024, size - 512), "EINVAL")
same(outcome(h.cache, 1024, size - 512), "EINVAL")
same(outcome(h.block_status, 1024, size - 512, lambda *a: 0), "EINVAL")
same(outcome(h.pread, 512, 1), "EINVAL")
same(outcome(h.pread, 1, 512), "EINVAL")
same(outcome(h.pwrite, b"x", 0), "EINVAL")
same(outcome(h.pwrite, bytes(512), 100), "EINVAL")
same(outcome(h.pwrite, bytes(33 * 1024 * 1024), 0), "EINVAL")
same(outcome(h.pread, 33 * 1024 * 1024, 0), "EINVAL")
same(outcome(h.pread_structured, 33 * 1024 * 1024, 0, lambda *a: 0, flags=nbd.CMD_FLAG_DF), "EOVERFLOW")
same(outcome(h.pwrite, bytes(512), 0, flags=nbd.CMD_FLAG_NO_HOLE), "EINVAL")
same(outcome(h.pread, 512, 0, flags=nbd.CMD_FLAG_REQ_ONE), "EINVAL")
same(outcome(h.flush, flags=1 << 15), "EINVAL")
same(outcome(h.zero, 512, 0, flags=nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE), "ENOTSUP")
same(outcome(h.zero, 512, 0, flags=nbd.CMD_FLAG_FAST_ZERO), None)
same(outcome(h.zero, size, 0), None)
same(outcome(h.trim, size, 0, flags=nbd.CMD_FLAG_FUA), None)
same(outcome(h.cache, 4096, 0), None)
same(outcome(h.pread, 512, 0, flags=nbd.CMD_FLAG_FUA), bytearray(512))
h.pwrite(b"still here".ljust(512, b"."), 512)
same(bytes(h.pread(512, 512))[:10], b"still here")
h.shutdown()
`)
  })

  test('structured reads, block status, and a session without structured replies', async () => {
    await libnbd(`
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(TCP)
h.pwrite(b"A" * 8192, 65536, nbd.CMD_FLAG_FUA)
chunks = []
def chunk(data, offset, status, error):
    chunks.append((bytes(data), offset, status, error.value))
    return 0
buf = h.pread_structured(131072, 0, chunk)
same(len(chunks), 1)
same(chunks[0][1:], (0, nbd.READ_DATA, 0))
same(buf[65536:73728], bytearray(b"A" * 8192))
extents = []
def status(context, offset, entries, error):
    extents.append((context, offset, list(entries)))
    return 0
h.block_status(131072, 0, status)
same(extents, [("base:allocation", 0, [65536, 3, 8192, 0, 57344, 3])])
extents.clear()
h.block_status(131072, 65536, status, nbd.CMD_FLAG_REQ_ONE)
same(extents, [("base:allocation", 65536, [8192, 0])])
h.shutdown()

plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(URI)
same(plain.get_structured_replies_negotiated(), False)
same(plain.can_df(), False)
same(bytes(plain.pread(4096, 65536)), b"A" * 4096)
plain.set_strict_mode(0)
same(outcome(plain.pread, 512, 2**40), "EINVAL")
same(bytes(plain.pread(4096, 65536)), b"A" * 4096)
plain.shutdown()
`)
  })

  test('options one by one, without EXPORT_NAME and with it', async () => {
    await libnbd(`
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(URI)
names = []
h.opt_list(lambda name, description: names.append((name, description)) or 0)
same(names, [("r0", "memory disk r0"), ("frozen", "memory disk frozen")])
h.set_export_name("frozen")
h.set_full_info(True)
h.opt_info()
same(h.is_read_only(), True)
same(h.get_size(), ${MIB})
same(h.get_canonical_export_name(), "frozen")
same(h.get_export_description(), "memory disk frozen")
same(h.get_block_size(nbd.SIZE_MAXIMUM), ${32 * MIB})
h.set_export_name("nobody")
same(outcome(h.opt_info), "ENOENT")
h.set_export_name("r0")
found = []
h.add_meta_context("base:")
h.opt_list_meta_context(lambda name: found.append(name) or 0)
same(found, ["base:allocation"])
h.clear_meta_contexts()
h.add_meta_context("qemu:dirty-bitmap:none")
h.opt_go()
same(h.can_meta_context("base:allocation"), False)
same(len(h.pread(512, 0)), 512)
h.shutdown()

a = nbd.NBD()
a.set_opt_mode(True)
a.connect_uri(TCP)
a.opt_abort()
same(a.aio_is_closed(), True)

old = nbd.NBD()
old.set_handshake_flags(0)
old.connect_uri(URI)
same(old.get_protocol(), "newstyle")
same(old.get_size(), ${DISK_BYTES})
same(len(old.pread(512, 0)), 512)
old.shutdown()
`)
  })

  test('two connections see the writes of each other, before and after a flush', async () => {
    await libnbd(`
a = nbd.NBD()
b = nbd.NBD()
a.connect_uri(URI)
b.connect_uri(TCP)
same(a.can_multi_conn() and b.can_multi_conn(), True)
for i in range(50):
    text = bytes([i]) * 4096
    a.pwrite(text, i * 4096)
    same(bytes(b.pread(4096, i * 4096)), text)
    b.pwrite(text[:512], i * 4096, nbd.CMD_FLAG_FUA)
    a.flush()
    same(bytes(a.pread(4096, i * 4096)), text)
a.shutdown()
b.shutdown()
`)
  })

  test('many requests in flight from one connection', async () => {
    await libnbd(`
h = nbd.NBD()
h.connect_uri(URI)
count = 600
buffers = [nbd.Buffer.from_bytearray(bytearray([i & 255]) * 16384) for i in range(count)]
cookies = [h.aio_pwrite(buffers[i], i * 16384) for i in range(count)]
while h.aio_in_flight() > 0:
    h.poll(-1)
same([h.aio_command_completed(cookie) for cookie in cookies], [True] * count)
reads = [nbd.Buffer(16384) for i in range(count)]
cookies = [h.aio_pread(reads[i], i * 16384) for i in range(count)]
while h.aio_in_flight() > 0:
    h.poll(-1)
for i in range(count):
    same(reads[i].to_bytearray(), bytearray([i & 255]) * 16384)
h.shutdown()
`)
  })
})

describe('fio', { skip: missingPrograms('fio') }, () => {
  test('random writes verified by checksum', async (context) => {
    if (!(await ok('fio', ['--enghelp'])).includes('nbd')) {
      context.skip('this fio was built without its nbd engine')
      return
    }
    for (const [transport, uri] of bothUris()) {
      const output = await ok('fio', [
        `--name=${transport}`,
        '--ioengine=nbd',
        `--uri=${uri}`,
        '--rw=randwrite',
        '--bsrange=4k-128k',
        '--size=24m',
        '--iodepth=32',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--do_verify=1',
        '--randseed=7',
        '--output-format=json',
      ])
      const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs
      assert.equal(job.error, 0)
      assert.ok(job.write.io_bytes >= 24 * MIB && job.read.io_bytes >= 24 * MIB, 'written and read back')
    }
  })
})

describe('on a real socket, bytes made by hand', () => {
  test('unknown commands get EINVAL and do not disturb their neighbours', async () => {
    const socket = createConnection({ port: tcpPort, host: '127.0.0.1' })
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.write(
      Buffer.concat([
        u32(3),
        option(7, counted('r0'), u16(0)),
        request({ type: 8, cookie: 1n, length: 4096 }),
        request({ type: 0xffff, cookie: 2n }),
        request({ type: 3, cookie: 3n }),
        request({ type: 2 }),
      ]),
    )
    await new Promise((resolve) => socket.on('end', resolve))
    const replies = Buffer.concat(chunks).subarray(18 + 32 + 34 + 20)
    const hex = (error: number, cookie: number): string =>
      `67446698${error.toString(16).padStart(8, '0')}${cookie.toString(16).padStart(16, '0')}`
    assert.equal(replies.toString('hex'), hex(22, 1) + hex(22, 2) + hex(0, 3))
  })

  test('our own client over both transports, many in flight on two connections', async () => {
    const [a, b] = await Promise.all([
      connectNbd({ socketPath: join(folder, 'nbd.sock'), exportName: 'r0' }),
      connectNbd({ host: '127.0.0.1', port: tcpPort, exportName: 'r0' }),
    ])
    const data = Array.from({ length: 40 }, (_, i) => new Uint8Array(256 * 1024).fill(i + 1))
    await Promise.all(data.map((one, i) => (i % 2 === 0 ? a : b).write(i * one.length, one)))
    await a.flush()
    const read = await Promise.all(data.map((one, i) => (i % 2 === 0 ? b : a).read(i * one.length, one.length)))
    read.forEach((one, i) => {
      assert.ok(Buffer.from(one).equals(data[i] as Uint8Array), `block ${i}`)
    })
    await Promise.all([a.disconnect(), b.disconnect()])
  })
})
