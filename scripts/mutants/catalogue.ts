// All mutants, by the order of writes under which they are hunted. An order that is added gets its own list and its line here.

import { arbitrationMutants } from './arbitration.ts'
import { coordinatorMutants } from './coordinator.ts'
import { autoMutants, lockMutants } from './locks.ts'
import type { Mutant } from './mutant.ts'

export const mutantsByOrder: ReadonlyMap<string, readonly Mutant[]> = new Map([
  ['arbitration', arbitrationMutants],
  ['coordinator', coordinatorMutants],
  ['lock-extents', lockMutants],
  ['auto', autoMutants],
])
