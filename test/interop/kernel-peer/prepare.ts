// Fetches and unpacks the guest's kernel and makes its initramfs, if they are not in the cache. Where there can be no guest at all
// it only says so: the rows skip themselves then, or fail in CI.

import { say } from '../../../scripts/console.ts'
import { ensureInitramfs } from './initramfs.ts'
import { bootImage, ensureKernel, kernelPeerProblem } from './kernel-image.ts'

const problem = kernelPeerProblem()
if (problem === false) {
  const kernel = ensureKernel()
  bootImage(kernel)
  ensureInitramfs(kernel)
} else say(`no kernel as a peer: ${problem}`)
