-- Days are written in place, whatever comes twice, so that neither growth nor autovacuum is needed for them.

-- migrate:up
-- A batch that brings events again writes the rows of its days twice: what it adds, and less for what was counted
-- before. A row then has three versions until the transaction has ended. On half-full pages there is room for two: the
-- third goes to another page with new entries in every index, and the table grows to four times its size within a
-- minute, before autovacuum comes by. With this much room each page tidies itself when it is next written.
ALTER TABLE rollup_days SET (fillfactor = 30);

-- migrate:down
ALTER TABLE rollup_days SET (fillfactor = 50);
