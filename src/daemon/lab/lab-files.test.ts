// Goal: what a lab writes before it starts anything: disks of the exact size, a resource file that says what it should, paths
// of sockets that fit. Method: the files, read back by the real readers.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { loadConfiguration, usableResource } from '../../config/index.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../meta/layout.ts'
import type { OrderName } from '../../runtime/api.ts'
import { makeFolder } from '../make-folder.ts'
import { configText } from './config.ts'
import { deviceBytesFor, prepareDisks } from './disks.ts'
import { labPaths } from './folder.ts'
import { type Protocol, parseDelayMs, parseOrder, parseProtocol, parseSizeBytes } from './options.ts'

const MIB = 1024 * 1024
const folder = mkdtempSync(join(tmpdir(), 'cp-'))
after(() => rmSync(folder, { recursive: true }))

test('a device leaves exactly the size asked for', () => {
  for (const sizeBytes of [MIB, 64 * MIB, 128 * MIB - 4096, 128 * MIB, 129 * MIB, 3 * 1024 * MIB, 1024 * 1024 * MIB]) {
    const deviceBytes = deviceBytesFor(sizeBytes)
    const usable = internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY).usableSectors * 512
    assert.ok(usable >= sizeBytes && usable < sizeBytes + 8192, `${sizeBytes}: ${usable}`)
    assert.equal(deviceBytes % 4096, 0)
  }
})

test('disks are made once and keep their size', () => {
  const paths = labPaths(folder)
  assert.deepEqual(prepareDisks(paths, 8 * MIB), { sizeBytes: 8 * MIB, fresh: ['a', 'b'] })
  assert.deepEqual(prepareDisks(paths, undefined), { sizeBytes: 8 * MIB, fresh: [] })
  assert.throws(() => prepareDisks(paths, 16 * MIB), /has disks of 8388608 bytes, not of 16777216/)
  rmSync(paths.disk.b)
  assert.deepEqual(prepareDisks(paths, undefined), { sizeBytes: 8 * MIB, fresh: ['b'] })
  truncateSync(paths.disk.b, 9 * MIB)
  assert.throws(() => prepareDisks(paths, undefined), /different sizes/)
})

function configured(protocol: Protocol, linkDelayMs: number, of = '/tmp/x', order: OrderName = 'arbitration') {
  const text = configText({
    paths: labPaths(of),
    protocol,
    order,
    writeNowAcks: order === 'auto',
    linkDelayMs,
    sizeBytes: 64 * MIB,
    ports: { a: 1001, b: 1002 },
  })
  const files = {
    read: () => text,
    glob: () => [],
    realPath: (path: string) => path,
    directoryOf: () => '/',
    join: (_directory: string, path: string) => path,
  }
  return usableResource(loadConfiguration('/lab.res', files, { hostName: 'a' }), 'r0')
}

test('the resource file: two Primaries, fencing, short times', () => {
  const { net, local, peer, handlers } = configured('C', 0)
  assert.deepEqual([net.protocol, net.allowTwoPrimaries, net.fencing], ['C', true, 'resource-and-stonith'])
  assert.deepEqual(
    [net.pingIntSeconds, net.pingTimeoutDeciseconds, net.connectIntSeconds, net.socketCheckTimeoutDeciseconds],
    [1, 5, 1, 1],
  )
  assert.deepEqual([local?.address.port, peer?.address.port], [1001, 1002])
  assert.equal(local?.volumes[0]?.diskOptions.sizeSectors, (64 * MIB) / 512)
  assert.equal(handlers.get('fence-peer'), "sh '/tmp/x/fence-peer'")
  const { coprime } = configured('C', 0, '/tmp/x', 'auto')
  assert.deepEqual([coprime.globalWriteOrder, coprime.writeNowAcks], ['auto', true])
})

test('the resource file: a slow link has time for its round trip; A and B have one Primary; paths are quoted', () => {
  for (const [delayMs, expected] of [
    [250, [10, 6, 2]],
    [1000, [25, 21, 3]],
  ] as const) {
    const { net } = configured('C', delayMs)
    const times = [net.pingTimeoutDeciseconds, net.socketCheckTimeoutDeciseconds, net.connectIntSeconds]
    assert.deepEqual(times, expected)
  }
  assert.deepEqual([configured('A', 0).net.fencing, configured('A', 0).net.allowTwoPrimaries], ['resource-only', false])
  assert.deepEqual(
    [configured('B', 0).net.fencing, configured('B', 0).net.allowTwoPrimaries],
    ['resource-and-stonith', false],
  )
  const strange = configured('C', 0, '/tmp/it\'s "x" \\ y')
  assert.equal(strange.local?.volumes[0]?.disk, '/tmp/it\'s "x" \\ y/a.img')
  assert.equal(strange.handlers.get('fence-peer'), `sh '/tmp/it'\\''s "x" \\ y/fence-peer'`)
})

test('sockets of a long folder are elsewhere, at a place of its own', () => {
  const short = labPaths(`/${'x'.repeat(90)}`)
  assert.equal(short.socket, join(short.folder, 'lab.sock'))
  const long = labPaths(`/${'x'.repeat(300)}`)
  assert.ok(long.control.a.length <= 107 && long.nbdSocket.b.length <= 107)
  assert.notEqual(long.socket, labPaths(`/${'x'.repeat(301)}`).socket)
  assert.equal(long.socket, labPaths(`/${'x'.repeat(300)}`).socket)
})

test('options', () => {
  assert.equal(parseSizeBytes('64M'), 64 * MIB)
  assert.equal(parseSizeBytes('2g'), 2048 * MIB)
  assert.equal(parseSizeBytes('1048576'), MIB)
  for (const bad of ['', 'M', '-1M', '1.5M', '1000K1', '512K', '17T', '1000001'])
    assert.throws(() => parseSizeBytes(bad), /--size/, bad)
  assert.equal(parseProtocol('b'), 'B')
  assert.equal(parseDelayMs('2.5', 'delay'), 2.5)
  for (const bad of ['', '-1', 'x', '2001', '1e3']) assert.throws(() => parseDelayMs(bad, 'delay'), /delay/, bad)
  assert.equal(parseOrder('arbitration', 'A'), 'arbitration')
  assert.equal(parseOrder('auto', 'C'), 'auto')
  assert.throws(() => parseOrder('auto', 'B'), { code: 'E_ARGUMENT', exitCode: 20 })
  assert.throws(() => parseOrder('best', 'C'), { code: 'E_ARGUMENT', exitCode: 20 })
})

test('folders are made with their parents, and what is impossible fails instead of hanging', () => {
  const deep = join(folder, 'p', 'q', 'r')
  makeFolder(deep, 0o700)
  makeFolder(deep)
  assert.equal(statSync(deep).mode & 0o777, 0o700)
  assert.throws(() => makeFolder('/proc/none/such'), { code: 'ENOENT' })
  assert.throws(() => makeFolder(join(folder, 'a.img', 'x')), { code: 'ENOTDIR' })
})
