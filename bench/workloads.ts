/**
 * The four workloads of the bench: tables, how their rows are made on a real MySQL, and how many row changes each
 * leaves in the binlog. Everything runs inside the server (INSERT … SELECT, stored procedures), so loading is quick and
 * the binlog is what an application would have left.
 */
import type { Connection } from 'mysql2/promise'

export interface Workload {
  readonly name: string
  /** Row changes at full size; the short form makes a tenth. */
  readonly rows: number
  /** Runs before the measured stretch of the binlog begins. */
  setup(db: Connection, rows: number): Promise<void>
  /** Writes the rows with numbers in [from, to): the measured stretch. */
  load(db: Connection, to: number, from?: number): Promise<void>
}

const narrow = `CREATE TABLE narrow (id BIGINT PRIMARY KEY, n INT NOT NULL, a CHAR(120) NOT NULL, b CHAR(60) NOT NULL)`
const orders = `CREATE TABLE orders (
  id BIGINT PRIMARY KEY, code VARCHAR(64) NOT NULL, price DECIMAL(18,4) NOT NULL, placed DATETIME(6) NOT NULL,
  changed TIMESTAMP(3) NOT NULL, doc JSON NOT NULL, note TEXT NOT NULL, state ENUM('new','paid','sent','done') NOT NULL,
  flags SET('a','b','c','d') NOT NULL, active TINYINT(1) NOT NULL, score DOUBLE NOT NULL, token VARBINARY(32) NOT NULL,
  due DATE NOT NULL, rare1 INT NULL, rare2 VARCHAR(40) NULL, rare3 BIGINT UNSIGNED NULL)`

/** A table of the numbers 0 to n-1, as the FROM clause of an INSERT … SELECT. */
const numbers = `CREATE TABLE seq (i INT PRIMARY KEY)`
async function fillNumbers(db: Connection, n: number): Promise<void> {
  await db.query(numbers)
  await db.query('SET SESSION cte_max_recursion_depth = 10000000')
  await db.query(
    `INSERT INTO seq WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM s WHERE i < ${n - 1}) SELECT i FROM s`,
  )
}

const narrowValues = (i: string) =>
  `${i}, ${i} * 7919 % 1000003, RPAD(LEFT(SHA2(${i}, 224), 32), 120, 'x'), RPAD(LEFT(SHA2(${i}, 256), 40), 60, 'y')`
const ordersValues = (
  i: string,
) => `${i}, CONCAT('order-', LEFT(SHA2(${i}, 224), 32)), ${i} * 1.2345, '2026-01-01' + INTERVAL ${i} SECOND,
  '2026-01-01' + INTERVAL ${i} SECOND,
  JSON_OBJECT('customer', ${i} % 5000, 'lines', JSON_ARRAY(${i}, 'sku-1', 2.5, true, null), 'ship', JSON_OBJECT('city', 'Hamburg', 'zip', '20095')),
  REPEAT(LEFT(SHA2(${i}, 224), 32), 15), 1 + ${i} % 4, ${i} % 16, ${i} % 2, ${i} / 7, UNHEX(LEFT(SHA2(${i}, 256), 40)), '2026-01-01' + INTERVAL ${i} % 900 DAY,
  IF(${i} % 10 = 0, ${i}, NULL), IF(${i} % 10 = 1, LEFT(SHA2(${i}, 224), 32), NULL), IF(${i} % 10 = 2, 18446744073709551615 - ${i}, NULL)`

async function procedure(db: Connection, name: string, body: string): Promise<void> {
  await db.query(
    `CREATE PROCEDURE ${name}(k INT, total INT) BEGIN WHILE k < total DO ${body} END WHILE; END`,
  )
}

export const workloads: readonly Workload[] = [
  {
    name: 'narrow_ins',
    rows: 3_000_000,
    async setup(db, rows) {
      await db.query(narrow)
      await fillNumbers(db, rows)
      await procedure(
        db,
        'narrow_ins',
        `INSERT INTO narrow SELECT ${narrowValues('i')} FROM seq WHERE i >= k AND i < k + 100; SET k = k + 100;`,
      )
    },
    async load(db, to, from = 0) {
      await db.query('CALL narrow_ins(?,?)', [from, to])
    },
  },
  {
    name: 'narrow_upd',
    rows: 900_000,
    async setup(db, rows) {
      await db.query(narrow)
      await fillNumbers(db, rows)
      await db.query(`INSERT INTO narrow SELECT ${narrowValues('i')} FROM seq`)
      await procedure(
        db,
        'narrow_upd',
        `START TRANSACTION; SET @end = k + 20; WHILE k < @end DO UPDATE narrow SET n = n + 1, b = RPAD(id * 7, 60, 'z') WHERE id = k; SET k = k + 1; END WHILE; COMMIT;`,
      )
    },
    async load(db, to, from = 0) {
      await db.query('CALL narrow_upd(?,?)', [from, to])
    },
  },
  {
    name: 'orders_ins',
    rows: 900_000,
    async setup(db, rows) {
      await db.query(orders)
      await fillNumbers(db, rows)
      await procedure(
        db,
        'orders_ins',
        `INSERT INTO orders SELECT ${ordersValues('i')} FROM seq WHERE i >= k AND i < k + 1000; SET k = k + 1000;`,
      )
    },
    async load(db, to, from = 0) {
      await db.query('CALL orders_ins(?,?)', [from, to])
    },
  },
  {
    name: 'orders_upd',
    rows: 300_000,
    async setup(db, rows) {
      await db.query(orders)
      await fillNumbers(db, rows)
      await db.query(`INSERT INTO orders SELECT ${ordersValues('i')} FROM seq`)
      await procedure(
        db,
        'orders_upd',
        `UPDATE orders SET price = price + 1, state = 1 + k % 4, changed = '2026-02-02 02:02:02.002', score = score * 1.5 WHERE id = k; SET k = k + 1;`,
      )
    },
    async load(db, to, from = 0) {
      await db.query('CALL orders_upd(?,?)', [from, to])
    },
  },
]
