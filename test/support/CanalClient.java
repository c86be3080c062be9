/*
 * Drives the stock Java client: one JSON command a line on stdin, one JSON answer a line on stdout, as canal_client.py
 * does for Python. Holds several connections, named by "on". Started as a single source file:
 * java -cp 'lib/*' CanalClient.java
 */
import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONObject;
import com.alibaba.fastjson2.JSONWriter;
import com.alibaba.otter.canal.client.CanalConnector;
import com.alibaba.otter.canal.client.CanalConnectors;
import com.alibaba.otter.canal.client.impl.SimpleCanalConnector;
import com.alibaba.otter.canal.protocol.CanalEntry.Column;
import com.alibaba.otter.canal.protocol.CanalEntry.Entry;
import com.alibaba.otter.canal.protocol.CanalEntry.EntryType;
import com.alibaba.otter.canal.protocol.CanalEntry.RowChange;
import com.alibaba.otter.canal.protocol.CanalEntry.RowData;
import com.alibaba.otter.canal.protocol.ClientIdentity;
import com.alibaba.otter.canal.protocol.Message;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

public class CanalClient {
    private static final Map<String, CanalConnector> connectors = new HashMap<>();

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        System.setOut(System.err); // the library logs
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line; (line = in.readLine()) != null;) {
            Map<String, Object> answer;
            try {
                answer = run(JSON.parseObject(line));
            } catch (Exception e) { // the test decides what an error means
                answer = Map.of("error", String.valueOf(e.getMessage()));
            }
            out.println(JSON.toJSONString(answer, JSONWriter.Feature.WriteNulls));
        }
        System.exit(0);
    }

    private static Map<String, Object> run(JSONObject command) throws Exception {
        String on = command.getString("on");
        CanalConnector connector = connectors.get(on);
        switch (command.getString("op")) {
            case "connect":
                connector = open(command);
                connectors.put(on, connector);
                connector.connect();
                return Map.of();
            case "subscribe":
                connector.subscribe(command.getString("filter"));
                return Map.of();
            case "get":
                return message(connector.getWithoutAck(command.getIntValue("size"), 1000L, TimeUnit.MILLISECONDS));
            case "ack":
                connector.ack(command.getLongValue("id"));
                return Map.of();
            case "rollback":
                if (command.getLongValue("id") == 0) connector.rollback();
                else connector.rollback(command.getLongValue("id"));
                return Map.of();
            case "unsubscribe":
                connector.unsubscribe();
                return Map.of();
            case "disconnect":
                connector.disconnect();
                return Map.of();
            default:
                throw new IllegalArgumentException("unknown op " + command.getString("op"));
        }
    }

    private static CanalConnector open(JSONObject command) throws Exception {
        InetSocketAddress address = new InetSocketAddress("127.0.0.1", command.getIntValue("port"));
        String user = command.getString("user");
        CanalConnector connector = CanalConnectors.newSingleConnector(
                address, command.getString("destination"), user == null ? "" : user,
                user == null ? "" : command.getString("password"));
        // the library writes 1001 into it and has no other way to change it
        var field = SimpleCanalConnector.class.getDeclaredField("clientIdentity");
        field.setAccessible(true);
        ((ClientIdentity) field.get(connector)).setClientId(command.getShortValue("clientId"));
        return connector;
    }

    private static Map<String, Object> message(Message message) throws Exception {
        List<Object> changes = new ArrayList<>();
        for (Entry entry : message.getEntries()) {
            Map<String, Object> item = new LinkedHashMap<>();
            item.put("kind", entry.getEntryType().name());
            item.put("table", entry.getHeader().getTableName());
            if (entry.getEntryType() == EntryType.ROWDATA) {
                RowChange change = RowChange.parseFrom(entry.getStoreValue());
                item.put("type", change.getEventType().name());
                item.put("sql", change.getSql());
                List<Object> rows = new ArrayList<>();
                for (RowData row : change.getRowDatasList()) {
                    rows.add(Map.of(
                            "before", columns(row.getBeforeColumnsList()), "after", columns(row.getAfterColumnsList())));
                }
                item.put("rows", rows);
            }
            changes.add(item);
        }
        return Map.of("id", message.getId(), "changes", changes);
    }

    private static Map<String, String> columns(List<Column> list) {
        Map<String, String> values = new LinkedHashMap<>();
        for (Column column : list) values.put(column.getName(), column.getIsNull() ? null : column.getValue());
        return values;
    }
}
