"""Drives canal-python from PyPI: one JSON command a line on stdin, one JSON answer a line on stdout."""
import json
import sys

from canal.client import Client
from canal.protocol import EntryProtocol_pb2 as e

out = sys.stdout
sys.stdout = sys.stderr  # the library prints
client = None


def columns(cols):
    return {c.name: None if c.isNull else c.value for c in cols}


def changes(entries):
    for entry in entries:
        h = entry.header
        item = {"kind": e.EntryType.Name(entry.entryType), "table": h.tableName, "file": h.logfileName, "offset": h.logfileOffset}
        if entry.entryType == e.EntryType.ROWDATA:
            change = e.RowChange()
            change.MergeFromString(entry.storeValue)
            item["type"] = e.EventType.Name(change.eventType)
            item["sql"] = change.sql
            item["rows"] = [{"before": columns(r.beforeColumns), "after": columns(r.afterColumns)} for r in change.rowDatas]
        yield item


for line in sys.stdin:
    cmd = json.loads(line)
    try:
        op = cmd["op"]
        answer = {}
        if op == "connect":
            client = Client()
            client.connect(host="127.0.0.1", port=cmd["port"])
            client.check_valid(username=b"", password=b"")
        elif op == "subscribe":
            client.subscribe(client_id=cmd["clientId"].encode(), destination=cmd["destination"].encode(), filter=cmd["filter"].encode())
        elif op == "get":
            message = client.get_without_ack(cmd.get("size", 100))
            answer = {"id": message["id"], "changes": list(changes(message["entries"]))}
        elif op == "ack":
            client.ack(cmd["id"])
        elif op == "rollback":
            client.rollback(cmd["id"])
        elif op == "disconnect":
            client.disconnect()
        else:
            raise ValueError("unknown op " + op)
    except Exception as x:  # the test decides what an error means
        answer = {"error": str(x)}
    out.write(json.dumps(answer) + "\n")
    out.flush()
