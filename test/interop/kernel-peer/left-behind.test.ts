// Goal: no guest and no daemon outlives the process that tests with it, however that ends.
// Method: a process of its own with both is killed with SIGKILL, which leaves it no chance to clean up.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { isRunning, whenGone, within } from '../../e2e/processes.ts'
import { kernelPeerProblem } from './kernel-image.ts'

const HOLDER = fileURLToPath(new URL('held-guest.js', import.meta.url))
const START_LIMIT_MS = 180_000

const skip = process.env['CI'] === undefined ? kernelPeerProblem() : false

test('guest and daemon end with the process that started them', { skip }, async () => {
  const holder = spawn(process.execPath, [HOLDER], { stdio: ['ignore', 'pipe', 'inherit'] })
  const line = new Promise<string>((resolve, reject) => {
    holder.stdout.setEncoding('utf8').once('data', resolve)
    holder.once('exit', (code) => reject(new Error(`ended with ${code}`)))
  })
  const pids = (await within(START_LIMIT_MS, 'a guest', line, () => holder.kill('SIGKILL')))
    .trim()
    .split(' ')
    .map(Number)
  assert.equal(pids.length, 2)
  for (const pid of pids) assert.equal(isRunning(pid), true, `process ${pid} runs`)
  holder.kill('SIGKILL')
  for (const pid of pids) await whenGone(pid)
})
