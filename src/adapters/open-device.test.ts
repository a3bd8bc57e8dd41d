// Goal: only a usable device that nobody else has is opened; everything else is a typed error with DRBD's number; the claim
// ends with the process. Method: real files, real processes, a loop device where the machine allows it.

import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { DiskOpenError } from './disk-errors.ts'
import { type FileDisk, openFileDisk } from './file-disk.ts'

function scratchFolder(context: TestContext): string {
  const scratch = mkdtempSync(join(tmpdir(), 'coprime-open-'))
  chmodSync(scratch, 0o755)
  context.after(() => rmSync(scratch, { recursive: true, force: true }))
  return scratch
}

function makeFile(context: TestContext, sizeBytes = 65536): string {
  const path = join(scratchFolder(context), 'disk')
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
  return path
}

function refusal(open: () => FileDisk): DiskOpenError {
  try {
    open().close()
  } catch (error) {
    assert.ok(error instanceof DiskOpenError, String(error))
    assert.notEqual(error.hint, '')
    return error
  }
  assert.fail('it was opened')
}

function refused(path: string, code: DiskOpenError['code'], numbers: readonly [number, number]): void {
  for (const [role, drbdCode] of [
    ['data', numbers[0]],
    ['meta', numbers[1]],
  ] as const) {
    const error = refusal(() => openFileDisk(path, { role }))
    assert.equal(error.code, code)
    assert.equal(error.details.drbdCode, drbdCode)
    assert.equal(error.details.path, path)
  }
}

/** Root may do anything: becomes nobody for a moment. */
function asNobody(what: () => void): void {
  if (process.getuid?.() !== 0) {
    what()
    return
  }
  process.seteuid?.(65534)
  try {
    what()
  } finally {
    process.seteuid?.(0)
  }
}

test('a missing file, and a path through a file', (context) => {
  const folder = scratchFolder(context)
  writeFileSync(join(folder, 'file'), '')
  refused(join(folder, 'missing'), 'E_DISK_NOT_FOUND', [104, 105])
  refused(join(folder, 'file', 'below'), 'E_DISK_NOT_FOUND', [104, 105])
  symlinkSync(join(folder, 'nowhere'), join(folder, 'link'))
  refused(join(folder, 'link'), 'E_DISK_NOT_FOUND', [104, 105])
})

test('a directory, a character device, a pipe and a socket', async (context) => {
  const folder = scratchFolder(context)
  mkdirSync(join(folder, 'sub'))
  refused(join(folder, 'sub'), 'E_DISK_WRONG_KIND', [104, 105])
  refused('/dev/null', 'E_DISK_WRONG_KIND', [104, 105])
  execFileSync('mkfifo', [join(folder, 'fifo')])
  refused(join(folder, 'fifo'), 'E_DISK_WRONG_KIND', [104, 105])
  const server = createServer().listen(join(folder, 'socket'))
  await once(server, 'listening')
  refused(join(folder, 'socket'), 'E_DISK_WRONG_KIND', [104, 105])
  server.close()
})

test('no permission, and permission to read only', (context) => {
  const path = makeFile(context)
  chmodSync(path, 0o000)
  asNobody(() => refused(path, 'E_DISK_PERMISSION', [104, 105]))
  chmodSync(path, 0o444)
  asNobody(() => refused(path, 'E_DISK_READ_ONLY', [104, 105]))
})

test('too small for a sector; otherwise the size is rounded down to whole sectors', (context) => {
  refused(makeFile(context, 0), 'E_DISK_TOO_SMALL', [111, 112])
  refused(makeFile(context, 511), 'E_DISK_TOO_SMALL', [111, 112])
  const path = makeFile(context, 1_000_001)
  const disk = openFileDisk(path)
  assert.equal(disk.sizeBytes, 999_936)
  disk.close()
})

test('a second opener in this process is refused, by any path, until the first has closed', (context) => {
  const path = makeFile(context)
  symlinkSync(path, `${path}-link`)
  const disk = openFileDisk(path)
  refused(path, 'E_DISK_CLAIMED', [114, 115])
  refused(`${path}-link`, 'E_DISK_CLAIMED', [114, 115])
  assert.equal(refusal(() => openFileDisk(path, { withoutFfi: true })).code, 'E_DISK_CLAIMED')
  assert.equal(refusal(() => openFileDisk(path, { shared: true })).code, 'E_DISK_CLAIMED')
  disk.close()
  openFileDisk(path).close()
})

test('without FFI the same lock is taken', (context) => {
  if (spawnSync('flock', ['--version']).error !== undefined) {
    context.skip('no flock program')
    return
  }
  const path = makeFile(context)
  const disk = openFileDisk(path, { withoutFfi: true })
  refused(path, 'E_DISK_CLAIMED', [114, 115])
  assert.equal(refusal(() => openFileDisk(path, { withoutFfi: true })).code, 'E_DISK_CLAIMED')
  disk.close()
  openFileDisk(path).close()
})

test('shared openers of one process share, others are refused; the last one gives it up', async (context) => {
  const path = makeFile(context)
  const first = openFileDisk(path, { shared: true, role: 'meta' })
  const second = openFileDisk(path, { shared: true, role: 'meta' })
  assert.equal(refusal(() => openFileDisk(path)).code, 'E_DISK_CLAIMED')
  const data = new Uint8Array(512).fill(7)
  await new Promise<void>((resolve) => first.write(512, data, () => resolve()))
  first.close()
  first.close()
  const seen = await new Promise<Uint8Array | undefined>((resolve) =>
    second.read(512, 512, (_e, read) => resolve(read)),
  )
  assert.deepEqual(seen && [...seen], [...data])
  assert.equal(refusal(() => openFileDisk(path)).code, 'E_DISK_CLAIMED')
  second.close()
  openFileDisk(path).close()
})

test('the claim survives until running operations have ended', async (context) => {
  const path = makeFile(context, 4 << 20)
  const disk = openFileDisk(path, { syncBytesMax: 0 })
  disk.write(0, new Uint8Array(4 << 20).fill(1), () => assert.fail('closed'))
  disk.close()
  assert.equal(refusal(() => openFileDisk(path)).code, 'E_DISK_CLAIMED')
  await new Promise<void>((resolve) => disk.whenReleased(resolve))
  openFileDisk(path).close()
})

const HOLDER = `
  const { openFileDisk } = await import(process.argv[1])
  const disk = openFileDisk(process.argv[2])
  console.log('open')
  setInterval(() => disk.sizeBytes, 1000)
`

async function startHolder(path: string): Promise<ChildProcess> {
  const module = fileURLToPath(new URL('./file-disk.js', import.meta.url))
  const child = spawn(process.execPath, ['--input-type=module', '-e', HOLDER, module, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  assert.ok(child.stdout !== null)
  const [text] = await once(child.stdout, 'data')
  assert.equal(String(text), 'open\n')
  return child
}

async function claimEndsWithProcess(path: string): Promise<void> {
  const holder = await startHolder(path)
  refused(path, 'E_DISK_CLAIMED', [114, 115])
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  const disk = openFileDisk(path)
  disk.close()
  await new Promise<void>((resolve) => disk.whenReleased(resolve))
}

test('the claim of another process holds, and ends when it is killed', async (context) => {
  await claimEndsWithProcess(makeFile(context))
})

test('a block device is claimed by its number, also against mounts and other nodes', async (context) => {
  if (process.getuid?.() !== 0 || spawnSync('losetup', ['-f']).status !== 0) {
    context.skip('loop devices need root')
    return
  }
  const image = makeFile(context, 4 << 20)
  const device = execFileSync('losetup', ['-f', '--show', image], { encoding: 'utf8' }).trim()
  try {
    await claimEndsWithProcess(device)
    const disk = openFileDisk(device)
    assert.equal(disk.isBlockDevice, true)
    assert.equal(disk.sizeBytes, 4 << 20)
    const [major, minor] = execFileSync('stat', ['-c', '%Hr %Lr', device], { encoding: 'utf8' }).trim().split(' ')
    const otherNode = `${image}-node`
    execFileSync('mknod', [otherNode, 'b', major as string, minor as string])
    refused(otherNode, 'E_DISK_CLAIMED', [114, 115])
    disk.close()
    await new Promise<void>((resolve) => disk.whenReleased(resolve))
    const withoutFfi = openFileDisk(device, { withoutFfi: true })
    assert.equal(withoutFfi.sizeBytes, 4 << 20, 'the size as sysfs tells it')
    withoutFfi.close()
    await new Promise<void>((resolve) => withoutFfi.whenReleased(resolve))
  } finally {
    execFileSync('losetup', ['-d', device])
  }
})

test('a read-only block device is refused', (context) => {
  if (process.getuid?.() !== 0 || spawnSync('losetup', ['-f']).status !== 0) {
    context.skip('loop devices need root')
    return
  }
  const device = execFileSync('losetup', ['-r', '-f', '--show', makeFile(context)], { encoding: 'utf8' }).trim()
  try {
    refused(device, 'E_DISK_READ_ONLY', [104, 105])
    assert.equal(refusal(() => openFileDisk(device, { withoutFfi: true })).code, 'E_DISK_READ_ONLY')
  } finally {
    execFileSync('losetup', ['-d', device])
  }
})
