-- Names with commas between them, or nothing: the only namespaces that are looked at.
ALTER TABLE clusters ADD COLUMN namespaces TEXT NOT NULL DEFAULT '';
