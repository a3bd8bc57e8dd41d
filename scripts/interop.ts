// `npm run interop`: the tests with a real kernel as the peer. `-- --soak MINUTES [--seed N]`: random operations against it
// instead (test/interop/kernel-peer/soak.ts). `-- --two-kernels SECONDS`: conflicts between two kernels (two-kernels.ts). Exit code 0: clean, 1: a difference or a complaint, 2: there is no kernel here.

import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { kernelPeerProblem } from '../test/interop/kernel-peer/kernel-image.ts'
import { PacketLog } from '../test/interop/kernel-peer/packet-log.ts'
import { KernelPair } from '../test/interop/kernel-peer/pair.ts'
import { Soak } from '../test/interop/kernel-peer/soak.ts'
import { twoKernels } from '../test/interop/kernel-peer/two-kernels.ts'
import { repositoryRoot } from '../test/support/root.ts'
import { print, say } from './console.ts'

const EXIT_NO_KERNEL = 2

const { values: options } = parseArgs({
  options: { soak: { type: 'string' }, seed: { type: 'string' }, 'two-kernels': { type: 'string' } },
})

function runTests(): number {
  const words = [join(repositoryRoot, 'scripts', 'run-tests.mjs'), 'kernel']
  return spawnSync(process.execPath, words, { stdio: 'inherit' }).status ?? 1
}

async function soak(minutes: number, seed: number): Promise<number> {
  print(`seed ${seed}, ${minutes} minutes`)
  const { pair, stop } = await KernelPair.start()
  const packets = new PacketLog(pair.relay)
  const run = new Soak(pair, { seed, minutes, print, onOperationEnd: () => packets.take() })
  try {
    await run.run()
    print(`clean: ${run.operations} operations, both disks equal`)
    return 0
  } catch (error) {
    const path = join(tmpdir(), `coprime-soak-${seed}.txt`)
    writeFileSync(path, packets.take().join('\n'))
    print(await pair.story().catch((cause: unknown) => `no story: ${String(cause)}`))
    print(
      `FAILED at operation ${run.operations}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    )
    print(`the packets of this operation: ${path}`)
    print(`again: npm run interop -- --soak ${minutes} --seed ${seed}`)
    return 1
  } finally {
    await stop()
  }
}

async function main(): Promise<number> {
  const problem = kernelPeerProblem()
  if (problem !== false) {
    say(problem)
    return EXIT_NO_KERNEL
  }
  if (options['two-kernels'] !== undefined) {
    await twoKernels({ seconds: Number(options['two-kernels']), print })
    return 0
  }
  if (options.soak === undefined) return runTests()
  const minutes = Number(options.soak)
  const seed = options.seed === undefined ? Date.now() % 1_000_000 : Number(options.seed)
  if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
    say('usage: npm run interop -- [--soak MINUTES [--seed N]]')
    return EXIT_NO_KERNEL
  }
  return soak(minutes, seed)
}

process.exitCode = await main()
