module.exports = {
  secret: process.env.ACCOUNTS_SECRET,
  redis: process.env.REDIS_URL,
  registration: { username: false },
  passwords: { write: 'bcrypt', upgrade: false },
  account: { delete: 'deactivate' },
  tokens: { accessTtl: 12 * 60 * 60, claims: ({ role }) => ({ role }) },
  adopt: { table: 'users', password: 'password_hash', role: 'role', disabledAt: 'deleted_at', createdAt: 'created_at' },
}
