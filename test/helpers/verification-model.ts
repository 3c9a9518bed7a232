import assert from 'node:assert/strict'
import fc from 'fast-check'
import { realmOf } from '../../lib/accounts.ts'
import { conceals as concealing } from '../../lib/options/options.ts'
import type { Host, Tokens } from './account-acts.ts'
import type { settableClock } from './app.ts'
import { uniqueName } from './helper.ts'
import { exhaust, type Mailed, newAddress, verificationActs } from './verification-acts.ts'

/** One act of a story about an address; `of` chooses among what somebody got hold of before. */
export type Act =
  | { by: 'attacker' | 'owner'; act: 'register' | 'resend' }
  | { by: 'attacker' | 'owner'; act: 'resend with token' | 'exhaust'; of: number }
  | { by: 'attacker'; act: 'session' | 'change password' | 'ask for address' | 'confirm address'; of: number }
  | { by: 'owner'; act: 'prove' | 'type a code of another token'; of: number }
  | { by: 'owner'; act: 'reset'; of: number }
  | { by: 'time'; act: 'pass'; hours: number }

/** How far back among what somebody got hold of. */
const of = fc.constantFrom(0, 0, 0, 1, 1, 2, 5)
const both = fc.constantFrom('attacker', 'owner')

function often(weight: number, by: 'attacker' | 'owner' | 'both', ...acts: string[]) {
  const actor = by === 'both' ? both : fc.constant(by)
  return { weight, arbitrary: fc.record({ by: actor, act: fc.constantFrom(...acts), of }) }
}

/** Stories of up to 16 acts, which end with a proof if it still needs one. */
export const actsOf = fc
  .array(
    fc.oneof(
      often(5, 'both', 'register'),
      often(4, 'both', 'resend with token'),
      often(2, 'both', 'resend'),
      often(2, 'both', 'exhaust'),
      often(3, 'attacker', 'session'),
      often(4, 'attacker', 'change password', 'ask for address', 'confirm address'),
      often(2, 'owner', 'prove', 'reset'),
      often(1, 'owner', 'type a code of another token'),
      {
        weight: 1,
        arbitrary: fc.record({
          by: fc.constant('time'),
          act: fc.constant('pass'),
          hours: fc.constantFrom(0, 1, 12, 25),
        }),
      },
    ),
    { minLength: 3, maxLength: 15 },
  )
  .map((acts) => [...acts, { by: 'owner', act: 'prove', of: 0 }]) as fc.Arbitrary<Act[]>

/** A token of somebody, with what a proof by it is to leave behind. */
interface Held extends Mailed {
  /** The account and the version of its credentials when the code was issued. */
  stamp: string
  expiresAt: number
  exhausted: boolean
  /** What the chain that it belongs to registered; null for what discards. */
  registered: { username: string; password: string } | null
}

/** What somebody got hold of. */
interface Side {
  held: Held[]
  passwords: string[]
}

interface Story {
  host: Host
  clock: ReturnType<typeof settableClock>
  email: string
  attacker: Side & { tokens: Tokens[]; pending: Mailed[]; stored: string | null }
  owner: Side
  /** Whether registration conceals, and stores nothing before the proof. */
  conceals: boolean
  /** The password that the owner's proof left, once there was one. */
  proof: { password: string | null } | null
}

const day = 86_400_000

/**
 * Plays a story and throws where the proof of the mailbox does not decide: a right code under an own token has to work
 * while its account is there, and what it left is the only credential that opens the account.
 */
export async function playOut(host: Host, clock: Story['clock'], acts: readonly Act[]): Promise<void> {
  const conceals = concealing(realmOf(verificationActs(host).accounts).options)
  const attacker = { held: [], passwords: [], tokens: [], pending: [], stored: null }
  const owner = { held: [], passwords: [] }
  const story: Story = { host, clock, email: newAddress(), attacker, owner, conceals, proof: null }
  if (conceals && acts.length % 2) await beginUnproved(story)
  for (const act of acts) {
    const [before, proof] = [await stampOf(story), story.proof]
    await play(story, act)
    if (!mayChange(act)) assert.equal(await stampOf(story), before, `"${act.act}" changes no account that is there`)
    if (story.proof !== proof) await onlyProofCounts(story)
  }
  await onlyProofCounts(story)
}

/** An account of the attacker that is left of the days before `concealExisting`. */
async function beginUnproved({ host, email, attacker }: Story): Promise<void> {
  attacker.stored = `attacker ${uniqueName()}`
  attacker.passwords.push(attacker.stored)
  await verificationActs(host).unproved({ email, password: attacker.stored })
}

/** Which account has the address, in which version; empty when none has. */
async function stampOf({ host, email }: Story): Promise<string> {
  const user = await verificationActs(host).find(email)
  return user ? `${user.id} ${user.credentialVersion}` : ''
}

function mayChange({ act }: Act): boolean {
  return ['register', 'change password', 'confirm address', 'prove', 'reset', 'pass'].includes(act)
}

async function play(story: Story, act: Act): Promise<void> {
  const side = act.by === 'time' ? story.owner : story[act.by]
  switch (act.act) {
    case 'register':
      return register(story, act.by as 'attacker' | 'owner')
    case 'resend':
      return resend(story, side)
    case 'resend with token':
      return resend(story, side, pick(side.held, act.of))
    case 'exhaust':
      return wearOut(story, pick(side.held, act.of))
    case 'prove':
      return prove(story, pick(side.held, act.of))
    case 'type a code of another token':
      return mistype(story, act.of)
    case 'reset':
      return reset(story)
    case 'pass':
      return pass(story, act.hours)
    default:
      return withSession(story, act)
  }
}

function pick<T>(things: readonly T[], of: number): T | undefined {
  return things.at(-1 - (of % things.length))
}

async function register(story: Story, by: 'attacker' | 'owner'): Promise<void> {
  const { host, email } = story
  const before = await stampOf(story)
  const registered = { username: uniqueName(), password: `${by} ${uniqueName()}` }
  const mailed = await verificationActs(host).register({ email, ...registered })
  const stamp = await stampOf(story)
  story[by].passwords.push(registered.password)
  if (mailed.token) story[by].held.push(held(story, mailed, stamp, registered))
  if (before !== '' || story.conceals) assert.equal(stamp, before, 'the registration changes nothing')
  else story.attacker.stored = by === 'attacker' ? registered.password : null
}

function held({ clock }: Story, mailed: Mailed, stamp: string, registered: Held['registered']): Held {
  return { ...mailed, stamp, registered, expiresAt: clock() + day, exhausted: false }
}

async function resend(story: Story, side: Side, before?: Held): Promise<void> {
  const { host, email, clock } = story
  const stamp = await stampOf(story)
  const mailed = await verificationActs(host).resend(email, before?.token)
  assert.equal(mailed.answer.status, 200)
  const known = before && clock() < before.expiresAt && (before.stamp === stamp || (story.conceals && stamp === ''))
  const kept = known && !story.proof ? before.registered : null
  side.held.push(held(story, mailed, stamp, kept))
}

async function wearOut({ host }: Story, token: Held | undefined): Promise<void> {
  if (!token) return
  await exhaust(verificationActs(host), token)
  token.exhausted = true
}

async function prove(story: Story, token: Held | undefined): Promise<void> {
  if (!token) return
  const stamp = await stampOf(story)
  // What conceals makes the account of a registration where there is none.
  const makes = stamp === '' && story.conceals && token.registered !== null
  const alive = (makes || (stamp !== '' && token.stamp === stamp)) && story.clock() < token.expiresAt
  const works = alive && !token.exhausted && !story.proof
  const { status } = await verificationActs(story.host).verify(token)
  assert.equal(status, works ? 200 : 400, 'a right code works while it lives')
  if (!works) return
  story.proof = { password: token.registered?.password ?? null }
  const user = await verificationActs(story.host).find(story.email)
  if (token.registered) assert.equal(user?.username, token.registered.username)
}

/** The owner types under an own token the code that was mailed for somebody else's. */
async function mistype({ host, attacker, owner }: Story, of: number): Promise<void> {
  const [token, other] = [pick(owner.held, of), pick(attacker.held, of)]
  if (!token || !other || token.exhausted || token.code === other.code) return
  // Five in all, and whoever is told four times that it is wrong asks for another code.
  const { status } = await verificationActs(host).verify({ token: token.token, code: other.code })
  assert.equal(status, 400, 'a code works under its own token alone')
  await wearOut({ host } as Story, token)
}

async function reset(story: Story): Promise<void> {
  const { host, email, owner } = story
  const password = `owner ${uniqueName()}`
  const there = (await stampOf(story)) !== ''
  const { status } = await verificationActs(host).reset(email, password)
  assert.equal(status, there ? 200 : 400)
  owner.passwords.push(password)
  if (there) story.proof = { password }
}

async function pass(story: Story, hours: number): Promise<void> {
  const { clock, host, proof, attacker } = story
  const before = await stampOf(story)
  clock.pass(hours * 3_600_000)
  const { accounts } = verificationActs(host)
  // No more than the housekeeping does by itself.
  await realmOf(accounts).storage.purge({ now: clock(), eventsBefore: 0, limit: 1000 })
  const after = await stampOf(story)
  if (proof) assert.equal(after, before, 'an account that is proved stays')
  if (after === '') attacker.stored = null
}

/** What an attacker does with a session that the host gave him for his own registration. */
async function withSession(story: Story, { act, of }: { act: string; of: number }): Promise<void> {
  const { host, email, attacker, proof } = story
  const acts = verificationActs(host)
  const session = pick(attacker.tokens, of)
  if (act === 'session') {
    if (attacker.stored !== null && !proof) attacker.tokens.push(await acts.session(email))
    return
  }
  if (!session) return
  if (act === 'change password') return changePassword(story, session)
  if (act === 'ask for address') {
    const own = `${uniqueName()}@evil.example`
    const asked = await acts.askEmail(own, session.access, attacker.stored ?? 'nothing that he knows')
    if (asked.token) attacker.pending.push(asked)
    return
  }
  const asked = pick(attacker.pending, of)
  if (!asked) return
  const { status } = await acts.confirmEmail(asked, session.access)
  if (status !== 200) return
  // What he takes elsewhere is his own; the address is free again.
  attacker.stored = null
  burnAll(story)
}

/** Every change of credentials burns the codes of the address. */
function burnAll({ attacker, owner }: Story): void {
  for (const token of [...attacker.held, ...owner.held]) Object.assign(token, { exhausted: true, registered: null })
}

async function changePassword(story: Story, { access }: Tokens): Promise<void> {
  const { host, attacker } = story
  const password = `attacker ${uniqueName()}`
  const body = { current_password: attacker.stored ?? 'nothing that he knows', new_password: password }
  const { status, body: tokens } = await verificationActs(host).post('/auth/change_password/', body, access)
  attacker.passwords.push(password)
  if (status !== 200) return
  if (attacker.stored !== null) attacker.stored = password
  attacker.tokens.push(tokens)
  burnAll(story)
}

/** Checks who gets into the account of the address: whom the owner's proof lets in, and nobody before it. */
async function onlyProofCounts({ host, email, attacker, owner, proof }: Story): Promise<void> {
  const { login, post, verify, confirmEmail } = verificationActs(host)
  for (const password of attacker.passwords) {
    assert.match(await login(email, password), /^40[13]/, 'no password of the attacker opens the account')
  }
  for (const password of owner.passwords) {
    assert.equal((await login(email, password)) === '200', password === proof?.password, 'one of the owner does')
  }
  if (!proof) return
  for (const { access, refresh } of attacker.tokens) {
    const { body } = await post('/auth/refresh/', { refresh })
    for (const token of [access, body.access ?? '']) assert.notEqual(await addressOf(host, token), email)
    for (const pending of attacker.pending) assert.notEqual((await confirmEmail(pending, access)).status, 200)
  }
  // Should he ever learn them.
  for (const token of attacker.held) assert.equal((await verify(token)).status, 400)
}

async function addressOf(host: Host, access: string): Promise<string | undefined> {
  const { body } = await host.send({ url: '/auth/user/', headers: { authorization: `Bearer ${access}` } })
  return body.email
}
