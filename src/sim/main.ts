// The `sim` command: scenarios on simulated machines with the daemon's own replica. See command.ts for its arguments.

import { execFileSync } from 'node:child_process'
import { Replica } from '../runtime/replica.ts'
import { runCommand } from './command.ts'
import { scenarios } from './scenario.ts'
import './scenarios/index.ts'

function currentCommit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return 'unknown'
  }
}

process.exitCode = runCommand(process.argv.slice(2), {
  scenarios,
  createReplica: (settings, ports) => new Replica(settings, ports),
  print: (line) => process.stdout.write(`${line}\n`),
  commit: currentCommit(),
})
