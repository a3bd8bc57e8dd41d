// Goal: other people's NBD clients find on both sides what they expect of a good server, and what one of them writes through
// one side another one reads through the other.
// Method: one lab; nbdinfo, nbdcopy, nbdsh, qemu-img, qemu-io, fio, nbdfuse and the ext4 tools as they come with Debian. A
// program that is not here is a skip that names it. Each test has an area of the disk, or the whole disk, to itself.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'
import { within } from '../support/bounded.ts'
import { differenceOfDisks, otherSide, SIDES, type Side } from '../support/disk-pair.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { findProgram, missingPrograms, mustRun, runProgram } from '../support/programs.ts'
import { onProcessExit } from '../support/scratch.ts'

const DISK_BYTES = 64 * MIB
const SLOW_MS = 60_000
const IS_ROOT = process.getuid?.() === 0

let lab: Lab

before(async () => {
  lab = await startLab({ size: '64M' })
})

after(async () => {
  const connection = await lab.connect('a')
  await connection.flush()
  await connection.disconnect()
  const difference = differenceOfDisks(lab)
  await lab.stop()
  assert.equal(difference, undefined, 'after all programs')
})

const scratch = (name: string): string => join(lab.folder.path, name)
const both = (name: string, run: (side: Side, context: TestContext) => Promise<void>, skip: string | false): void => {
  for (const side of SIDES) test(`${name}, written on ${side}`, { skip }, (context) => run(side, context))
}

describe('nbdinfo', { skip: missingPrograms('nbdinfo') }, () => {
  // As `nbdinfo --can` and `--is` answer them with their exit code: 0 yes, 2 no.
  const flags: Readonly<Record<string, boolean>> = {
    '--can cache': true,
    '--can connect': true,
    '--can df': true,
    '--can fast-zero': true,
    '--can flush': true,
    '--can fua': true,
    '--can multi-conn': true,
    '--can read': true,
    '--can structured-reply': true,
    '--can trim': true,
    '--can write': true,
    '--can zero': true,
    '--is read-only': false,
    '--is rotational': false,
    '--is tls': false,
  }

  for (const side of SIDES) {
    test(`what ${side} can`, async () => {
      const answers: Record<string, number> = {}
      for (const words of Object.keys(flags)) {
        answers[words] = (await runProgram('nbdinfo', [...words.split(' '), lab.uri(side)])).code
      }
      const expected = Object.fromEntries(Object.entries(flags).map(([words, yes]) => [words, yes ? 0 : 2]))
      assert.deepEqual(answers, expected)
    })

    test(`size and list of ${side}`, async () => {
      assert.equal((await mustRun('nbdinfo', ['--size', lab.uri(side)])).stdout.trim(), String(DISK_BYTES))
      const text = (await mustRun('nbdinfo', ['--list', '--json', lab.uri(side)])).stdout
      const { exports } = JSON.parse(text) as { exports: readonly ExportOfNbdinfo[] }
      assert.equal(exports.length, 1)
      checkExport(exports[0], side)
    })

    test(`description and map of ${side}`, async () => {
      const text = (await mustRun('nbdinfo', ['--json', lab.uri(side)])).stdout
      const { exports, protocol } = JSON.parse(text) as { exports: readonly ExportOfNbdinfo[]; protocol: string }
      assert.equal(protocol, 'newstyle-fixed')
      checkExport(exports[0], side)
      const map = (await mustRun('nbdinfo', ['--map', '--json', lab.uri(side)])).stdout
      const extents = JSON.parse(map) as readonly { offset: number; length: number; type: number }[]
      let at = 0
      for (const { offset, length } of extents) {
        assert.equal(offset, at, 'extents follow each other')
        at += length
      }
      assert.equal(at, DISK_BYTES, 'the map covers the disk')
    })
  }

  test('a map shows what was written and what was discarded', async () => {
    const connection = await lab.connect('a')
    await connection.trim(0, 8 * MIB)
    await connection.write(MIB, new Uint8Array(MIB).fill(7))
    await connection.flush()
    await connection.disconnect()
    for (const side of SIDES) {
      const map = (await mustRun('nbdinfo', ['--map', '--json', lab.uri(side)])).stdout
      const extents = JSON.parse(map) as readonly { offset: number; length: number; type: number }[]
      const at = (offset: number): number | undefined =>
        extents.find((extent) => extent.offset <= offset && offset < extent.offset + extent.length)?.type
      assert.deepEqual([at(0), at(MIB), at(2 * MIB - 1), at(2 * MIB)], [3, 0, 0, 3], `types of extents on ${side}`)
    }
  })

  interface ExportOfNbdinfo {
    readonly 'export-name': string
    readonly 'export-size': number
    readonly is_read_only: boolean
    readonly can_multi_conn: boolean
    readonly block_size_minimum: number
    readonly contexts?: readonly string[]
  }

  function checkExport(found: ExportOfNbdinfo | undefined, side: Side): void {
    assert.ok(found, `${side} lists its export`)
    assert.equal(found['export-name'], 'r0')
    assert.equal(found['export-size'], DISK_BYTES)
    assert.equal(found.is_read_only, false)
    assert.equal(found.can_multi_conn, true)
    assert.equal(found.block_size_minimum, 512)
    assert.deepEqual(found.contexts, ['base:allocation'])
  }
})

describe('whole images', () => {
  const writeImage = (name: string, seed: number): string => {
    const path = scratch(name)
    writeFileSync(path, imageBytes(seed))
    return path
  }

  both(
    'nbdcopy in through one side, out through the other',
    async (side) => {
      const image = writeImage(`nbdcopy-${side}.img`, side === 'a' ? 1 : 2)
      const copy = scratch(`nbdcopy-${side}.out`)
      await mustRun('nbdcopy', ['--flush', image, lab.uri(side)], { timeoutMs: SLOW_MS })
      await mustRun('nbdcopy', [lab.uri(otherSide(side)), copy], { timeoutMs: SLOW_MS })
      assert.equal(digestOf(copy), digestOf(image))
      assert.equal(differenceOfDisks(lab), undefined)
    },
    missingPrograms('nbdcopy'),
  )

  both(
    'qemu-img convert and compare',
    async (side) => {
      const image = writeImage(`convert-${side}.img`, side === 'a' ? 3 : 4)
      const target = ['-n', '-f', 'raw', '-O', 'raw', image, lab.uri(side)]
      await mustRun('qemu-img', ['convert', ...target], { timeoutMs: SLOW_MS })
      for (const reader of SIDES) {
        const compared = await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, lab.uri(reader)])
        assert.match(compared.stdout, /Images are identical/)
      }
      const back = scratch(`convert-${side}.qcow2`)
      await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', lab.uri(otherSide(side)), back])
      const compared = await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', image, back])
      assert.match(compared.stdout, /Images are identical/)
    },
    missingPrograms('qemu-img'),
  )
})

describe('qemu-io', { skip: missingPrograms('qemu-io') }, () => {
  const qemuIo = async (side: Side, commands: readonly string[]): Promise<string> => {
    const words = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), lab.uri(side)]
    const { stdout, stderr } = await mustRun('qemu-io', words)
    assert.doesNotMatch(stdout + stderr, /Pattern verification failed|error|invalid/i)
    return stdout
  }

  both(
    'patterns',
    async (side) => {
      const at = side === 'a' ? 32 * MIB : 40 * MIB
      await qemuIo(side, [
        `write -P 0xa1 ${at} 1M`,
        `write -f -P 0xa2 ${at + MIB} 64k`, // FUA
        `write -P 0xa3 ${at + 2 * MIB + 512} 3584`,
        `write -P 0xa4 ${at + 3 * MIB + 100} 1000`, // not even whole sectors: qemu reads, changes and writes
        `writev -P 0xa5 ${at + 4 * MIB} 4096 512 8192 1024`,
        'flush',
      ])
      await qemuIo(otherSide(side), [
        `read -P 0xa1 ${at} 1M`,
        `read -P 0xa2 ${at + MIB} 64k`,
        `read -P 0xa3 ${at + 2 * MIB + 512} 3584`,
        `read -P 0xa4 ${at + 3 * MIB + 100} 1000`,
        `read -P 0xa5 ${at + 4 * MIB} 13824`,
      ])
    },
    false,
  )

  both(
    'discard and zeroes',
    async (side) => {
      const at = side === 'a' ? 48 * MIB : 56 * MIB
      await qemuIo(side, [
        `write -P 0xb1 ${at} 6M`,
        `discard ${at + MIB} 1M`,
        `write -z ${at + 2 * MIB} 1M`,
        `write -z -u ${at + 3 * MIB} 1M`, // may unmap
        `write -z -u -n ${at + 4 * MIB} 1M`, // only if it is fast, and a hole is
        `write -z ${at + 5 * MIB + 512} 1536`,
        'flush',
      ])
      await qemuIo(otherSide(side), [
        `read -P 0xb1 ${at} 1M`,
        `read -P 0 ${at + MIB} 4M`,
        `read -P 0xb1 ${at + 5 * MIB} 512`,
        `read -P 0 ${at + 5 * MIB + 512} 1536`,
        `read -P 0xb1 ${at + 5 * MIB + 2048} 512k`,
      ])
    },
    false,
  )

  test('zeroes that must not leave a hole are never fast: refused, and nothing changes', async () => {
    const at = 28 * MIB
    await qemuIo('a', [`write -P 0xc1 ${at} 64k`])
    const { stdout } = await runProgram('qemu-io', ['-f', 'raw', '-c', `write -z -n ${at} 64k`, lab.uri('a')])
    assert.match(stdout, /Operation not supported/)
    await qemuIo('b', [`read -P 0xc1 ${at} 64k`])
  })

  test('a verification that must fail does', async () => {
    const words = ['-f', 'raw', '-c', `write -P 0x11 ${DISK_BYTES - MIB} 4k`, lab.uri('a')]
    await mustRun('qemu-io', words)
    const read = ['-f', 'raw', '-c', `read -P 0x12 ${DISK_BYTES - MIB} 4k`, lab.uri('b')]
    const { stdout } = await runProgram('qemu-io', read)
    assert.match(stdout, /Pattern verification failed/)
  })
})

describe('nbdsh', { skip: missingPrograms('python3') || missingPythonNbd() }, () => {
  test('many commands in flight from both sides, verified crosswise', async () => {
    const script = `
import nbd, os, sys
ends = [nbd.NBD(), nbd.NBD()]
for h, uri in zip(ends, sys.argv[1:3]):
    h.set_strict_mode(0)
    h.connect_uri(uri)
data = [[os.urandom(4096 * (1 + n % 5)) for n in range(64)] for _ in ends]
pending = []
for side, h in enumerate(ends):
    for n, d in enumerate(data[side]):
        pending.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(d)), (2 * n + side) * 65536)))
while pending:
    pending = [(h, c) for h, c in pending if not h.aio_command_completed(c)]
    for h in {h for h, _ in pending}:
        h.poll(100)
for h in ends:
    h.flush()
for side, h in enumerate(ends):
    for n, d in enumerate(data[1 - side]):
        got = h.pread(len(d), (2 * n + 1 - side) * 65536)
        assert got == d, "side %d operation %d" % (side, n)
try:
    ends[0].pwrite(b"x" * 512, ends[0].get_size())
    raise SystemExit("a write beyond the end was taken")
except nbd.Error as error:
    assert error.errno in ("ENOSPC", "EINVAL"), error.errno
for h in ends:
    h.shutdown()
print("verified", sum(len(d) for d in data))
`
    const { stdout } = await mustRun('/usr/bin/python3', ['-c', script, lab.uri('a'), lab.uri('b')])
    assert.match(stdout, /^verified 128/)
  })
})

describe('fio', { skip: missingFioNbd() }, () => {
  const job = (side: Side, words: readonly string[]) =>
    mustRun(
      'fio',
      [
        '--ioengine=nbd',
        `--uri=${lab.uri(side)}`,
        '--verify=crc32c',
        '--verify_fatal=1',
        '--randseed=4711',
        '--iodepth=16',
        '--bsrange=4k-32k',
        '--size=12M',
        '--output-format=json',
        ...words,
      ],
      { timeoutMs: SLOW_MS, cwd: lab.folder.path },
    )

  test('random writes verified from both sides at once, then crosswise', async () => {
    const area = (side: Side): string[] => [`--offset=${side === 'a' ? '4M' : '20M'}`, `--name=from-${side}`]
    const runs = SIDES.map((side) => job(side, [...area(side), '--rw=randwrite', '--do_verify=1']))
    for (const { stdout } of await Promise.all(runs)) checkFio(stdout, 'write')
    for (const side of SIDES) {
      const words = [...area(side), '--rw=randwrite', '--verify_only=1', '--do_verify=1']
      checkFio((await job(otherSide(side), words)).stdout, undefined)
    }
  })

  function checkFio(text: string, direction: 'write' | undefined): void {
    const report = JSON.parse(text.slice(text.indexOf('{'))) as {
      jobs: readonly { error: number; write: { io_bytes: number } }[]
    }
    assert.equal(report.jobs[0]?.error, 0)
    if (direction !== undefined) assert.equal(report.jobs[0]?.write.io_bytes, 12 * MIB)
  }
})

describe('ext4', { skip: missingPrograms('mkfs.ext4', 'e2fsck', 'debugfs', 'nbdcopy') }, () => {
  test('an image made elsewhere, copied in through a, checks clean through b', async () => {
    const image = scratch('ext4.img')
    const folder = scratch('ext4-content')
    makeTree(folder, 40)
    writeFileSync(image, '')
    await mustRun('mkfs.ext4', ['-q', '-F', '-d', folder, image, `${DISK_BYTES / MIB}M`])
    await mustRun('nbdcopy', ['--flush', image, lab.uri('a')], { timeoutMs: SLOW_MS })
    const copy = scratch('ext4.out')
    await mustRun('nbdcopy', [lab.uri('b'), copy], { timeoutMs: SLOW_MS })
    await mustRun('e2fsck', ['-fn', copy])
    const dumped = scratch('ext4-dumped')
    mkdirSync(dumped)
    await mustRun('debugfs', ['-R', `rdump / ${dumped}`, copy])
    assert.deepEqual(treeDigests(dumped, 40), treeDigests(folder, 40))
  })

  test('made and checked through nbdfuse on one side, checked on the other', { skip: missingFuse() }, async () => {
    await withNbdfuse('a', async (disk) => {
      await mustRun('mkfs.ext4', ['-q', '-F', disk])
    })
    await withNbdfuse('b', async (disk) => {
      await mustRun('e2fsck', ['-fn', disk])
    })
  })

  // The file systems are touched by other processes only: a call that waits for the disk would stop this one.
  test('mounted on a, files written, checked through b', { skip: missingFuse() || missingLoop() }, async () => {
    const [folder, tree, copy] = [scratch('mounted'), scratch('tree'), scratch('tree-copy')]
    mkdirSync(folder)
    makeTree(tree, 60)
    await withNbdfuse('a', async (disk) => {
      await mustRun('mkfs.ext4', ['-q', '-F', disk])
      await withMount(disk, folder, () => mustRun('cp', ['-r', tree, folder]))
    })
    await withNbdfuse('b', async (disk) => {
      await mustRun('e2fsck', ['-fn', disk])
      await withMount(disk, folder, () => mustRun('cp', ['-r', join(folder, 'tree'), copy]))
    })
    assert.deepEqual(treeDigests(copy, 60), treeDigests(tree, 60))
  })
})

// ---- helpers ------------------------------------------------------------------------------------------------------------

/** A whole disk of data, with holes of many sizes. */
function imageBytes(seed: number): Uint8Array {
  const prng = new Prng(seed)
  const bytes = new Uint8Array(DISK_BYTES)
  const words = new Uint32Array(bytes.buffer)
  for (let at = 0; at < words.length; ) {
    const length = Math.min(words.length - at, prng.intInclusive(1, 2 * MIB) >> 2)
    if (prng.chance(1, 2)) for (let i = at; i < at + length; i++) words[i] = (i * 2654435761 + seed) >>> 0
    at += length
  }
  return bytes
}

const digestOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

/** Files whose content follows from their number. */
function makeTree(folder: string, files: number): void {
  mkdirSync(folder, { recursive: true })
  for (let n = 0; n < files; n++) {
    mkdirSync(join(folder, `d${n % 7}`), { recursive: true })
    writeFileSync(join(folder, `d${n % 7}`, `f${n}`), Buffer.alloc(1 + ((n * 7919) % 200_000), n + 1))
  }
}

function treeDigests(folder: string, files: number): string[] {
  const digests: string[] = []
  for (let n = 0; n < files; n++) digests.push(digestOf(join(folder, `d${n % 7}`, `f${n}`)))
  return digests
}

/** The disk of a side as a file, by nbdfuse. */
async function withNbdfuse(side: Side, use: (disk: string) => Promise<unknown>): Promise<void> {
  const mountPoint = scratch(`fuse-${side}`)
  mkdirSync(mountPoint, { recursive: true })
  const child = spawn(findProgram('nbdfuse') ?? 'nbdfuse', [mountPoint, lab.uri(side)], { stdio: 'ignore' })
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const [unmount, ...words] = IS_ROOT ? ['umount'] : ['fusermount3', '-u']
  // Without its server the mount answers every call with an error; it does not hang.
  const forget = onProcessExit(() => {
    child.kill('SIGKILL')
    spawnSync(unmount as string, [...words, mountPoint])
  })
  try {
    await appears(join(mountPoint, 'nbd'))
    await use(join(mountPoint, 'nbd'))
    await mustRun(unmount as string, [...words, mountPoint])
    // It flushes before it ends.
    await within(15_000, 'end of nbdfuse', ended)
  } catch (error) {
    child.kill('SIGKILL')
    await runProgram(unmount as string, [...words, mountPoint])
    throw error
  } finally {
    forget()
  }
}

/** A file system in a file, by a loop device; unmounted, and so written back, in the end. */
async function withMount(disk: string, folder: string, use: () => Promise<unknown>): Promise<void> {
  await mustRun('mount', ['-t', 'ext4', '-o', 'loop', disk, folder])
  const forget = onProcessExit(() => {
    spawnSync('umount', ['-l', folder])
  })
  try {
    await use()
  } finally {
    await mustRun('umount', [folder])
    forget()
  }
}

async function appears(path: string): Promise<void> {
  const deadlineMs = performance.now() + 10_000
  for (;;) {
    try {
      accessSync(path, constants.R_OK)
      return
    } catch (error) {
      if (performance.now() > deadlineMs) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function missingPythonNbd(): string | false {
  const found = spawnSync('/usr/bin/python3', ['-c', 'import nbd'])
  return found.status === 0 ? false : 'not installed here: python3-libnbd'
}

function missingFioNbd(): string | false {
  const missing = missingPrograms('fio')
  if (missing !== false) return missing
  const { stdout } = spawnSync('fio', ['--enghelp'], { encoding: 'utf8' })
  return /^\s*nbd$/m.test(stdout) ? false : 'fio was built without its nbd engine'
}

function missingFuse(): string | false {
  // Root mounts by itself; everybody else by fuse's helper.
  const missing = missingPrograms('nbdfuse', ...(IS_ROOT ? ['umount'] : ['fusermount3']))
  if (missing !== false) return missing
  return usable('/dev/fuse')
}

function missingLoop(): string | false {
  if (!IS_ROOT) return 'mounting needs root'
  const missing = missingPrograms('mount', 'umount', 'losetup') || usable('/dev/loop-control')
  if (missing !== false) return missing
  const found = spawnSync('losetup', ['--find'], { encoding: 'utf8' })
  return found.status === 0 ? false : `no loop device: ${found.stderr.trim()}`
}

function usable(device: string): string | false {
  try {
    accessSync(device, constants.R_OK | constants.W_OK)
    return false
  } catch {
    return `${device} cannot be opened here`
  }
}
