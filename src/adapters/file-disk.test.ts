// Goal: what the contract suite (test/contract/disk-contract.ts) cannot know: which way operations take, and what happens when
// the file is pulled away or full. Method: real files; the statistics tell the way.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, renameSync, rmSync, statSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'

import { KIB, MIB } from '../base/units.ts'
import type { DiskDone, DiskError } from '../runtime/ports.ts'
import { type FileDisk, type FileDiskOptions, openFileDisk } from './file-disk.ts'
import { loadPosix } from './posix.ts'

interface Result {
  readonly error: DiskError | undefined
  readonly data: Uint8Array | undefined
}

const complete = (submit: (done: DiskDone) => void): Promise<Result> =>
  new Promise((resolve) => submit((error, data) => resolve({ error, data })))

function makeDisk(context: TestContext, options: FileDiskOptions = {}, sizeBytes = 4 * MIB): FileDisk {
  const scratch = mkdtempSync(join(tmpdir(), 'coprime-disk-'))
  const path = join(scratch, 'disk')
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
  const disk = openFileDisk(path, options)
  context.after(() => {
    disk.close()
    rmSync(scratch, { recursive: true })
  })
  return disk
}

const bytes = (lengthBytes: number): Uint8Array => new Uint8Array(lengthBytes).fill(0x5a)

test('small operations are synchronous, large ones go to the pool', async (context) => {
  const disk = makeDisk(context)
  await complete((done) => disk.write(0, bytes(128 * KIB), done))
  await complete((done) => disk.read(0, 128 * KIB, done))
  assert.equal(disk.statistics.poolWrites + disk.statistics.slowOperations, disk.statistics.slowOperations)
  const before = { ...disk.statistics }
  await complete((done) => disk.write(0, bytes(129 * KIB), done))
  await complete((done) => disk.read(0, 129 * KIB, done))
  assert.equal(disk.statistics.poolWrites, before.poolWrites + 1)
  assert.equal(disk.statistics.poolReads, before.poolReads + 1)
  assert.equal(disk.statistics.syncWrites, before.syncWrites)
  assert.equal(disk.statistics.syncReads, before.syncReads)
})

test('with syncBytesMax 0 everything goes to the pool', async (context) => {
  const disk = makeDisk(context, { syncBytesMax: 0 })
  await complete((done) => disk.write(0, bytes(512), done))
  await complete((done) => disk.read(0, 512, done))
  assert.equal(disk.statistics.syncReads + disk.statistics.syncWrites, 0)
  assert.equal(disk.statistics.poolReads, 1)
  assert.equal(disk.statistics.poolWrites, 1)
})

test('a read that is not in the page cache goes to the pool instead of waiting', async (context) => {
  if (loadPosix() === undefined) {
    context.skip('no FFI')
    return
  }
  const disk = makeDisk(context)
  await complete((done) => disk.write(0, bytes(MIB), done))
  await complete((done) => disk.flush(done))
  // Drops the clean pages of this file (posix_fadvise), which is what coreutils' dd does on request.
  const dropped = spawnSync('dd', [`of=${disk.path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'])
  if (dropped.status !== 0) {
    context.skip('dd without nocache')
    return
  }
  const cold = await complete((done) => disk.read(0, 64 * KIB, done))
  assert.deepEqual(cold, { error: undefined, data: Buffer.from(bytes(64 * KIB)) })
  if (disk.statistics.uncachedReads === 0) {
    context.skip('this file system keeps its pages, or has no RWF_NOWAIT')
    return
  }
  assert.equal(disk.statistics.poolReads, 1)
  await complete((done) => disk.read(0, 64 * KIB, done))
  assert.equal(disk.statistics.poolReads, 1)
  assert.equal(disk.statistics.syncReads, 1)
})

test('completions of synchronous operations come together, after the turn', async (context) => {
  const disk = makeDisk(context)
  let completed = 0
  for (let i = 0; i < 32; i++) disk.write(i * 4 * KIB, bytes(4 * KIB), () => completed++)
  await Promise.resolve()
  assert.equal(completed, 0)
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(completed, disk.statistics.syncWrites)
})

test('one fdatasync answers many flushes; without writes none is needed', async (context) => {
  const disk = makeDisk(context)
  await complete((done) => disk.write(0, bytes(4 * KIB), done))
  const flushes = Array.from({ length: 10 }, () => complete((done) => disk.flush(done)))
  for (const { error } of await Promise.all(flushes)) assert.equal(error, undefined)
  // The first starts at once, the nine others share the next.
  assert.equal(disk.statistics.syncCalls, 2)
  await complete((done) => disk.flush(done))
  assert.equal(disk.statistics.syncCalls, 2)
  await complete((done) => disk.write(0, bytes(512), done))
  await complete((done) => disk.flush(done))
  assert.equal(disk.statistics.syncCalls, 3)
  await complete((done) => disk.zero(0, MIB, false, done))
  await complete((done) => disk.flush(done))
  assert.equal(disk.statistics.syncCalls, 4)
  assert.equal(disk.statistics.flushes, 13)
})

test('the first flush after opening is a real one: who had it open before may have crashed', async (context) => {
  const disk = makeDisk(context)
  await complete((done) => disk.flush(done))
  assert.equal(disk.statistics.syncCalls, 1)
})

test('unmapping gives the space back, zeroing keeps it', async (context) => {
  const disk = makeDisk(context)
  if (!disk.discardZeroes) {
    context.skip('no holes on this file system')
    return
  }
  const allocated = (): number => statSync(disk.path).blocks * 512
  await complete((done) => disk.write(0, bytes(2 * MIB), done))
  await complete((done) => disk.flush(done))
  assert.ok(allocated() >= 2 * MIB)
  await complete((done) => disk.zero(0, MIB, false, done))
  assert.ok(allocated() >= 2 * MIB)
  await complete((done) => disk.zero(MIB, MIB, true, done))
  assert.ok(allocated() < 1.5 * MIB, `${allocated()} bytes are allocated`)
  assert.equal(disk.statistics.zeroBytesWritten, 0)
})

test('a file that is truncated under us is noticed by read and by flush, and stays gone', async (context) => {
  for (const how of ['read', 'read in pool', 'flush', 'verify'] as const) {
    const disk = makeDisk(context, how === 'read in pool' ? { syncBytesMax: 0 } : {})
    await complete((done) => disk.write(0, bytes(MIB), done))
    assert.equal(disk.verifyStillThere(), undefined)
    truncateSync(disk.path, 512 * KIB)
    if (how === 'read' || how === 'read in pool') {
      const inside = await complete((done) => disk.read(0, 4 * KIB, done))
      assert.equal(inside.error, undefined)
      const across = await complete((done) => disk.read(508 * KIB, 8 * KIB, done))
      assert.equal(across.error?.code, 'gone')
    } else if (how === 'flush') {
      assert.equal((await complete((done) => disk.flush(done))).error?.code, 'gone')
    } else assert.equal(disk.verifyStillThere()?.code, 'gone')
    truncateSync(disk.path, 4 * MIB)
    assert.equal((await complete((done) => disk.read(0, 512, done))).error?.code, 'gone')
    assert.equal((await complete((done) => disk.write(0, bytes(512), done))).error?.code, 'gone')
    assert.equal((await complete((done) => disk.flush(done))).error?.code, 'gone')
    assert.equal((await complete((done) => disk.zero(0, 512, true, done))).error?.code, 'gone')
    assert.equal(disk.isHole(0, 512), false)
  }
})

test('nothing behind the end of a truncated file is called a hole', async (context) => {
  const disk = makeDisk(context)
  truncateSync(disk.path, MIB)
  assert.equal(disk.isHole(2 * MIB, MIB), false)
  assert.deepEqual(disk.extents(2 * MIB, MIB, 10), [{ lengthBytes: MIB, hole: false }])
})

test('a file that is deleted, replaced or moved is noticed when asked for', (context) => {
  const replaced = makeDisk(context)
  renameSync(replaced.path, `${replaced.path}-before`)
  assert.equal(replaced.verifyStillThere()?.code, 'gone')
  writeFileSync(replaced.path, new Uint8Array(4 * MIB))
  assert.equal(replaced.verifyStillThere()?.code, 'gone')
  const deleted = makeDisk(context)
  unlinkSync(deleted.path)
  const error = deleted.verifyStillThere()
  assert.equal(error?.code, 'gone')
  assert.match(error?.message ?? '', /ENOENT/)
})

/** 1 MiB in memory, so that a sparse file of 4 MiB does not fit. */
function mountSmall(context: TestContext): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'coprime-small-'))
  const mounted = process.getuid?.() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', folder])
  context.after(() => {
    if (mounted !== false && mounted.status === 0) execFileSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true })
  })
  if (mounted !== false && mounted.status === 0) return folder
  context.skip('mounting a small file system needs root')
  return undefined
}

test('a full file system is no-space, after a short write or at once, and nothing else breaks', async (context) => {
  const folder = mountSmall(context)
  if (folder === undefined) return
  for (const syncBytesMax of [0, 2 * MIB]) {
    const path = join(folder, `disk-${syncBytesMax}`)
    writeFileSync(path, '')
    truncateSync(path, 4 * MIB)
    const disk = openFileDisk(path, { syncBytesMax })
    // Part of it fits: the system call is short, its continuation fails.
    const first = await complete((done) => disk.write(0, bytes(2 * MIB), done))
    assert.equal(first.error?.code, 'no-space')
    const second = await complete((done) => disk.write(3 * MIB, bytes(4 * KIB), done))
    assert.equal(second.error?.code, 'no-space')
    const zeroed = await complete((done) => disk.zero(0, 2 * MIB, true, done))
    assert.equal(zeroed.error, undefined)
    const third = await complete((done) => disk.write(3 * MIB, bytes(4 * KIB), done))
    assert.equal(third.error, undefined)
    disk.close()
    unlinkSync(path)
  }
})
