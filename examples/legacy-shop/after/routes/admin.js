module.exports = async function routes(app) {
  app.addHook('onRequest', app.authenticate)
  app.addHook('onRequest', app.requireAdmin)

  app.get('/admin/customers', async () => {
    const select = `select u.id, u.email, u.name, count(o.id)::int as orders, coalesce(sum(o.cents), 0)::int as cents
      from users u left join orders o on o.user_id = u.id where u.deleted_at is null
      group by u.id order by cents desc, u.id limit 100`
    return (await app.pg.query(select)).rows
  })
}
