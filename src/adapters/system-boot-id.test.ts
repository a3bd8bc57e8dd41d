// Goal: the identity of a machine's start is the same for every process of it, and nothing that is not one passes for it.
// Method: this machine's own, a file that is none, and one that does not exist.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { systemBootId } from './system-boot-id.ts'

test('every process finds the same', () => {
  const id = systemBootId()
  assert.equal(typeof id, 'bigint')
  const text = execFileSync('cat', ['/proc/sys/kernel/random/boot_id'], { encoding: 'latin1' })
  assert.ok(text.replaceAll('-', '').startsWith((id ?? 0n).toString(16).padStart(16, '0')), text)
})

test('no file, or another one: not known', () => {
  assert.equal(systemBootId('/proc/sys/kernel/random/none'), undefined)
  assert.equal(systemBootId('/proc/version'), undefined)
})
