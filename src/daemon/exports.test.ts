// Goal: which exports there are, when they are refused and with what words, what clients learn of holes, and that the count
// of openers and the admission of requests are passed on. Method: a replica of which the test sets the state.

import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'

import type { NbdExport, NbdExportRefusal } from '../nbd/exports.ts'
import type { ResourceStatus, VolumeStatus } from '../runtime/api.ts'
import type { Disk, DiskExtent } from '../runtime/ports.ts'
import { ResourceExports } from './exports.ts'

const EXTENTS: DiskExtent[] = [
  { lengthBytes: 4096, hole: true },
  { lengthBytes: 8192, hole: false },
]

let role: ResourceStatus['role']
let disk: string
let sizeSectors: number
let admits: boolean
let admissionCalls: (() => void)[]
let openers: number[]
let admitted: number

beforeEach(() => {
  role = 'Primary'
  disk = 'UpToDate'
  sizeSectors = 2048
  admits = true
  admissionCalls = []
  openers = []
  admitted = 0
})

function exportsOf(...names: string[]): ResourceExports {
  const volumes = names.map((exportName, volume) => ({ exportName, volume }))
  const status = (): ResourceStatus =>
    ({
      name: 'r0',
      role,
      volumes: volumes.map(({ volume }) => ({ volume, disk, sizeSectors }) as VolumeStatus),
    }) as unknown as ResourceStatus
  return new ResourceExports({
    name: 'r0',
    volumes,
    replica: {
      submit: (_request, done) => done(undefined, []),
      get admits() {
        return admits
      },
      onAdmission: (call) => admissionCalls.push(call),
      status,
    },
    dataDisk: () => ({ sizeBytes: 2 * 1024 * 1024, extents: () => EXTENTS }) as unknown as Disk,
    onAdmitted: () => admitted++,
    onOpenersChanged: (count) => openers.push(count),
  })
}

function opened(found: NbdExport | NbdExportRefusal): NbdExport {
  assert.ok(!('refused' in found), JSON.stringify(found))
  return found
}

test('one volume: by its name, by RESOURCE/VNR, and as the default export', () => {
  const exports = exportsOf('r0')
  for (const name of ['r0', 'r0/0', '']) {
    const found = opened(exports.open(name))
    assert.equal(found.name, 'r0')
    assert.equal(found.sizeBytes, 1024 * 1024)
    found.closed()
  }
  assert.deepEqual(
    exports.list().map(({ name }) => name),
    ['r0'],
  )
})

test('several volumes: only by their own names', () => {
  const exports = exportsOf('r0/0', 'r0/1')
  assert.equal(opened(exports.open('r0/1')).volume, 1)
  for (const name of ['', 'r0', 'r0/2']) {
    const found = exports.open(name)
    assert.ok('refused' in found && found.refused === 'unknown', name)
    assert.match(found.text, /r0\/0, r0\/1/)
  }
})

test('refused on a Secondary, without a size, and while closing', () => {
  const exports = exportsOf('r0')
  role = 'Secondary'
  assert.deepEqual(exports.open('r0'), {
    refused: 'policy',
    text: 'r0 is Secondary on this host; run: coprime primary r0',
  })
  role = 'Primary'
  sizeSectors = 0
  assert.match((exports.open('r0') as NbdExportRefusal).text, /size of r0 is not known/)
  sizeSectors = 2048
  exports.closing = true
  assert.deepEqual(exports.open('r0'), { refused: 'shutdown', text: 'r0 is going down' })
  assert.deepEqual(openers, [])
})

test('openers are counted, per volume and in all', () => {
  const exports = exportsOf('r0/0', 'r0/1')
  const first = opened(exports.open('r0/0'))
  const second = opened(exports.open('r0/1'))
  assert.deepEqual([exports.openCount(0), exports.openCount(1)], [1, 1])
  first.closed()
  assert.deepEqual([exports.openCount(0), exports.openCount(1)], [0, 1])
  second.closed()
  assert.deepEqual(openers, [1, 2, 1, 0])
})

test('holes are those of an UpToDate disk, inside the export; else all is data', () => {
  const found = opened(exportsOf('r0').open('r0'))
  assert.deepEqual(found.extents(0, 12_288, 16), EXTENTS)
  disk = 'Inconsistent'
  assert.deepEqual(found.extents(0, 12_288, 16), [{ lengthBytes: 12_288, hole: false }])
  disk = 'UpToDate'
  sizeSectors = 16
  assert.deepEqual(found.extents(0, 12_288, 16), [{ lengthBytes: 12_288, hole: false }])
})

test('the end of back-pressure is told once, however often it was asked about', () => {
  const found = opened(exportsOf('r0').open('r0'))
  admits = false
  assert.equal(found.admits, false)
  assert.equal(found.admits, false)
  assert.equal(admissionCalls.length, 1)
  admits = true
  admissionCalls[0]?.()
  assert.equal(admitted, 1)
  admits = false
  assert.equal(found.admits, false)
  assert.equal(admissionCalls.length, 2)
})
