// Goal: errors of the operating system become the port's four codes and DRBD's numbers. Method: tables.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { DiskOpenError, diskError } from './disk-errors.ts'

test('errors of operations', () => {
  const table = {
    EIO: 'io',
    EREMOTEIO: 'io',
    ENOSPC: 'no-space',
    EDQUOT: 'no-space',
    EFBIG: 'no-space',
    EROFS: 'read-only',
    EBADF: 'read-only',
    EPERM: 'read-only',
    ENODEV: 'gone',
    ENXIO: 'gone',
    ENOMEDIUM: 'gone',
    ESTALE: 'gone',
  }
  for (const [systemCode, code] of Object.entries(table)) {
    const error = diskError('/dev/x', 'write of 512 bytes at 0', systemCode)
    assert.equal(error.code, code, systemCode)
    assert.equal(error.message, `/dev/x: write of 512 bytes at 0: ${systemCode}`)
  }
  assert.equal(diskError('/dev/x', 'flush', undefined).code, 'io')
})

test('errors of opening carry the number for the role', () => {
  const numbers = (code: DiskOpenError['code']): number[] =>
    (['data', 'meta'] as const).map((role) => new DiskOpenError(code, { path: '/x', role }, 'is bad').details.drbdCode)
  assert.deepEqual(numbers('E_DISK_NOT_FOUND'), [104, 105])
  assert.deepEqual(numbers('E_DISK_READ_ONLY'), [104, 105])
  assert.deepEqual(numbers('E_DISK_CLAIMED'), [114, 115])
  assert.deepEqual(numbers('E_DISK_TOO_SMALL'), [111, 112])
})

test('errors of opening keep their cause and say what to do', () => {
  const cause = Object.assign(new Error('no'), { code: 'EACCES' })
  const error = new DiskOpenError('E_DISK_PERMISSION', { path: '/x', role: 'data' }, 'permission denied', cause)
  assert.equal(error.message, '/x: permission denied')
  assert.equal(error.details.systemCode, 'EACCES')
  assert.equal(error.cause, cause)
  assert.match(error.hint, /root/)
})
