// The hashes alone: as many at a time as there are cores, at the cost that the library has by default.
import { availableParallelism } from 'node:os'
import { hash, verify } from '@node-rs/argon2'
import { answerBench } from './serve.js'

const cost = { memoryCost: 19456, timeCost: 2, parallelism: 1, outputLen: 32 }
const stored = await hash('correct horse battery', cost)

answerBench(
  {},
  {
    async perSecond(seconds) {
      const from = performance.now()
      let count = 0
      async function work() {
        while (performance.now() < from + seconds * 1000) {
          await verify(stored, 'correct horse battery')
          count++
        }
      }
      await Promise.all(Array.from({ length: availableParallelism() }, work))
      return (count / (performance.now() - from)) * 1000
    },
  },
)
