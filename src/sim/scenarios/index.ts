// All scenarios: importing this file registers them, in the order in which a run over all plays them.

import './canary.ts'
import './mirroring.ts'
import './crashes.ts'
import './network-faults.ts'
import './disk-faults.ts'
import './found-about-disks.ts'
import './found-about-old-disks.ts'
import './found-by-stories.ts'
import './rare-moments.ts'
import './random-story.ts'
import './no-data.ts'
import './write-orders.ts'
