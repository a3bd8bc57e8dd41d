// Goal: nothing that a pair of machines may go through breaks the contract.
// Method: every seed draws another story (random/story.ts): machines, settings, clients, faults and their moments. The
// checkers look on after every step; then faults end, and everything must come to rest.

import { Prng } from '../../base/prng.ts'
import { describeStory, drawStory } from '../random/story.ts'
import { Striker } from '../random/strike.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'

export const RANDOM_STORY = 'random-story'

const storyOf = (seed: number) => drawStory(new Prng(seed).fork('story'))

scenario(
  RANDOM_STORY,
  { seeds: 40, world: (seed) => storyOf(seed).world, describe: (seed) => describeStory(storyOf(seed)) },
  (world) => {
    const story = storyOf(world.options.seed)
    world.keepAlive(story.restart)
    for (const workload of story.workloads) new Workload(world, workload)
    new Striker(world, world.prng).plan(story.faults)
    world.runFor({ ms: story.lengthMs })
  },
)
