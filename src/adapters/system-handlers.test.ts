// Goal: handlers run as DRBD's do: /bin/sh, their environment, exit status, a bound in time. Method: real shell commands.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { EXIT_NO_HANDLER, EXIT_TIMED_OUT, SystemHandlers } from './system-handlers.ts'

interface Outcome {
  readonly exitCode: number
  readonly lines: readonly string[]
}

function runCommand(command: string, environment: Record<string, string> = {}, timeoutMs = 10_000): Promise<Outcome> {
  const lines: string[] = []
  const handlers = new SystemHandlers({
    commands: new Map([['fence-peer', command]]),
    timeoutMs,
    log: (name, line) => lines.push(`${name}: ${line}`),
  })
  return new Promise((resolve) => {
    let inside = true
    handlers.run('fence-peer', new Map(Object.entries(environment)), (exitCode) => {
      assert.equal(inside, false, 'completed inside the call')
      resolve({ exitCode, lines })
    })
    inside = false
  })
}

test('gives the exit code and the output of both streams, line by line', async () => {
  const { exitCode, lines } = await runCommand('echo one; echo two >&2; printf three; exit 7')
  assert.equal(exitCode, 7)
  assert.deepEqual([...lines].sort(), ['fence-peer: one', 'fence-peer: three', 'fence-peer: two'])
})

test('passes the environment of DRBD and nothing of our own', async () => {
  process.env['COPRIME_SECRET_FOR_TEST'] = 'x'
  try {
    const { lines } = await runCommand('env; pwd', { DRBD_RESOURCE: 'r0', DRBD_PEER: 'bob and "carol"' })
    const all = lines.map((line) => line.slice('fence-peer: '.length))
    for (const expected of ['DRBD_RESOURCE=r0', 'DRBD_PEER=bob and "carol"', 'HOME=/', 'TERM=linux', '/']) {
      assert.ok(all.includes(expected), `${expected} in ${all.join(' | ')}`)
    }
    assert.ok(!all.some((line) => line.startsWith('COPRIME_SECRET_FOR_TEST')))
  } finally {
    delete process.env['COPRIME_SECRET_FOR_TEST']
  }
})

test('a command that is not found, one that is killed, a syntax error', async () => {
  assert.equal((await runCommand('/does/not/exist')).exitCode, 127)
  assert.equal((await runCommand('kill -9 $$')).exitCode, 128 + 9)
  assert.equal((await runCommand('if')).exitCode, 2)
})

/** A process that has ended and waits for init to notice does not run. */
function isRunning(pid: number): boolean {
  try {
    return !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

test('one that takes too long is ended with its children', async () => {
  const startMs = performance.now()
  const { exitCode, lines } = await runCommand('sleep 100 & echo $!; wait', {}, 100)
  assert.equal(exitCode, EXIT_TIMED_OUT)
  assert.ok(performance.now() - startMs < 5000)
  assert.match(lines.join('\n'), /killed: it ran longer than 100 ms/)
  const child = Number(lines[0]?.split(': ')[1])
  assert.ok(child > 1)
  const deadlineMs = performance.now() + 5000
  while (isRunning(child) && performance.now() < deadlineMs) await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal(isRunning(child), false)
})

test('one that ignores SIGTERM is killed', async () => {
  const { exitCode } = await runCommand("trap '' TERM; while :; do sleep 0.05; done", {}, 50)
  assert.equal(exitCode, EXIT_TIMED_OUT)
})

test('something left in the background that keeps the pipe open does not hold up the result', async () => {
  const { exitCode, lines } = await runCommand('sleep 3 & echo left; exit 4')
  assert.equal(exitCode, 4)
  assert.deepEqual(lines, ['fence-peer: left'])
})

test('a handler that is not configured counts as done', async () => {
  const handlers = new SystemHandlers({ commands: new Map(), log: () => assert.fail('nothing to log') })
  let inside = true
  const exitCode = await new Promise((resolve) => {
    handlers.run('split-brain', new Map(), (code) => resolve(inside ? 'inside' : code))
    inside = false
  })
  assert.equal(exitCode, EXIT_NO_HANDLER)
})

test('a line without end is cut into pieces', async () => {
  const { lines } = await runCommand('head -c 5000 /dev/zero | tr "\\0" x')
  assert.ok(lines.every((line) => line.length <= 2100))
  assert.equal(lines.join('').replaceAll('fence-peer: ', '').length, 5000)
})
