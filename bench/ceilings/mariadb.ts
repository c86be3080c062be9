/** The ceiling of the SQL sink on MariaDB: the driver and its statements are those of MySQL. */
import './mysql.ts'
