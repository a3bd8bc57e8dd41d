// Goal: the bindings call what they say, with 64-bit offsets and the right errno. Method: a sparse file of 6 GiB.

import assert from 'node:assert/strict'
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'

import { GIB, MIB } from '../base/units.ts'
import {
  ERRNO,
  errnoName,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  loadPosix,
  type Posix,
  SEEK_DATA,
  SEEK_END,
  SEEK_HOLE,
} from './posix.ts'

const SIZE_BYTES = 6 * GIB
const FAR_BYTES = 5 * GIB

function setUp(context: TestContext): { posix: Posix; fd: number; path: string } | undefined {
  const posix = loadPosix()
  if (posix === undefined) {
    context.skip('koffi does not load on this machine')
    return undefined
  }
  const scratch = mkdtempSync(join(tmpdir(), 'coprime-posix-'))
  const path = join(scratch, 'file')
  const fd = openSync(path, 'w+')
  ftruncateSync(fd, SIZE_BYTES)
  context.after(() => {
    closeSync(fd)
    rmSync(scratch, { recursive: true })
  })
  return { posix, fd, path }
}

test('finds data and holes beyond 4 GiB', (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, fd } = it
  assert.equal(posix.seek(fd, 0, SEEK_DATA), -ERRNO.ENXIO)
  assert.equal(errnoName(-ERRNO.ENXIO), 'ENXIO')
  writeSync(fd, new Uint8Array(8192).fill(1), 0, 8192, FAR_BYTES)
  assert.equal(posix.seek(fd, 0, SEEK_DATA), FAR_BYTES)
  assert.equal(posix.seek(fd, FAR_BYTES, SEEK_HOLE), FAR_BYTES + 8192)
  assert.equal(posix.seek(fd, 0, SEEK_END), SIZE_BYTES)
  assert.equal(posix.seek(-1, 0, SEEK_END), -ERRNO.EBADF)
})

test('punches a hole beyond 4 GiB, now and in the pool, many at once', async (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, fd } = it
  const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
  const bytes = new Uint8Array(65536).fill(1)
  writeSync(fd, bytes, 0, 65536, FAR_BYTES)
  assert.equal(posix.fallocateNow(fd, mode, FAR_BYTES, 4096), 0)
  assert.equal(posix.seek(fd, 0, SEEK_DATA), FAR_BYTES + 4096)
  const results = await Promise.all(
    Array.from({ length: 15 }, (_, i) => {
      return new Promise<number>((resolve) => posix.fallocate(fd, mode, FAR_BYTES + 4096 * (i + 1), 4096, resolve))
    }),
  )
  assert.deepEqual(results, Array(15).fill(0))
  assert.equal(posix.seek(fd, 0, SEEK_DATA), -ERRNO.ENXIO)
})

test('the errno of a call in the pool is its own', async (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, fd } = it
  const call = (where: number, offsetBytes: number): Promise<number> =>
    new Promise((resolve) => posix.fallocate(where, FALLOC_FL_KEEP_SIZE, offsetBytes, 4096, resolve))
  const results = await Promise.all([call(-1, 0), call(fd, -4096), call(fd, 0), call(-1, 0), call(fd, -1)])
  assert.deepEqual(results.map(String), [-ERRNO.EBADF, -ERRNO.EINVAL, 0, -ERRNO.EBADF, -ERRNO.EINVAL].map(String))
})

test('reads what is cached to the place asked for, and no byte beside it', (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, fd } = it
  writeSync(
    fd,
    Uint8Array.from({ length: 4096 }, (_, i) => i & 0xff),
    0,
    4096,
    FAR_BYTES,
  )
  // So large that it lies above 4 GiB.
  const buffer = Buffer.alloc(8 * MIB, 0xaa)
  const result = posix.readCached(fd, posix.addressOf(buffer) + 4096, 2048, FAR_BYTES + 1024)
  if (result === -ERRNO.EOPNOTSUPP) {
    context.skip('this file system has no RWF_NOWAIT')
    return
  }
  assert.equal(result, 2048)
  const expected = Buffer.alloc(2048)
  readSync(fd, expected, 0, 2048, FAR_BYTES + 1024)
  assert.equal(Buffer.compare(buffer.subarray(4096, 6144), expected), 0)
  assert.ok(buffer.subarray(0, 4096).every((byte) => byte === 0xaa))
  assert.ok(buffer.subarray(6144).every((byte) => byte === 0xaa))
})

test('the address of a view is that of its first byte', (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix } = it
  const buffer = Buffer.allocUnsafeSlow(100_000)
  assert.equal(posix.addressOf(buffer.subarray(5000)), posix.addressOf(buffer) + 5000)
})

test('an exclusive lock excludes a second opener, until the first closes', (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, path } = it
  const first = openSync(path, 'r+')
  const second = openSync(path, 'r+')
  assert.equal(posix.lockExclusive(first), 0)
  assert.equal(posix.lockExclusive(second), -ERRNO.EWOULDBLOCK)
  closeSync(first)
  assert.equal(posix.lockExclusive(second), 0)
  closeSync(second)
})

test('a block device call on a file is refused, not misread', async (context) => {
  const it = setUp(context)
  if (it === undefined) return
  const { posix, fd, path } = it
  assert.equal(posix.blockSizeBytes(fd), -ERRNO.ENOTTY)
  assert.equal(posix.logicalBlockBytes(fd), -ERRNO.ENOTTY)
  assert.equal(posix.blockDiscardZeroes(fd), false)
  assert.equal(await new Promise((resolve) => posix.blockZeroOut(fd, 0, 4096, resolve)), -ERRNO.ENOTTY)
  assert.equal(statSync(path).size, SIZE_BYTES)
})
