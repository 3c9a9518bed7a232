-- Every night: psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f nightly.sql
begin;

-- Whoever has bought nothing for two years has left.
update users set deleted_at = now()
where role = 'customer' and deleted_at is null and created_at < now() - interval '2 years'
  and not exists (
    select from orders o where o.user_id = users.id and o.created_at > now() - interval '2 years'
  );

-- A mail provider has merged with another one and renamed its mailboxes.
update users set email = split_part(email, '@', 1) || '@mail.example'
where email ilike '%@oldmail.example' and deleted_at is null;

-- Whoever left long ago without an order is forgotten, and with orders has no name any more.
delete from users
where deleted_at < now() - interval '90 days' and not exists (select from orders o where o.user_id = users.id);

update users set email = 'gone-' || id || '@shop.example', name = '', password_hash = ''
where deleted_at < now() - interval '90 days' and email not like 'gone-%@shop.example';

commit;
