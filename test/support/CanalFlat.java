/*
 * What Canal itself makes of packets: reads frames (int32 length, then a CanalPacket of type MESSAGES) from standard
 * input, parses them with Canal's own classes, fills Canal's FlatMessage as its MQ mode does, and writes it with fastjson2
 * as its Kafka producer does, again as frames. Arguments: ts, id. A frame of our JSON may follow each packet: it is parsed
 * by fastjson2 into the same class, and what that holds is written as a third frame.
 */
import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONWriter;
import com.alibaba.otter.canal.protocol.CanalEntry;
import com.alibaba.otter.canal.protocol.CanalPacket;
import com.alibaba.otter.canal.protocol.FlatMessage;
import com.google.protobuf.ByteString;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

public class CanalFlat {
    public static void main(String[] args) throws Exception {
        long ts = Long.parseLong(args[0]);
        long id = Long.parseLong(args[1]);
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        while (true) {
            byte[] packet;
            try {
                packet = frame(in);
            } catch (EOFException end) {
                break;
            }
            byte[] ours = frame(in);
            CanalPacket.Packet parsed = CanalPacket.Packet.parseFrom(packet);
            if (parsed.getType() != CanalPacket.PacketType.MESSAGES) throw new IllegalStateException("type " + parsed.getType());
            CanalPacket.Messages messages = CanalPacket.Messages.parseFrom(parsed.getBody());
            for (ByteString bytes : messages.getMessagesList()) {
                FlatMessage flat = flat(CanalEntry.Entry.parseFrom(bytes), id, ts);
                write(out, json(flat));
                FlatMessage read = JSON.parseObject(ours, FlatMessage.class);
                boolean same = String.valueOf(flat.getData()).equals(String.valueOf(ordered(read.getData(), flat.getData())))
                    && flat.getSqlType().equals(read.getSqlType()) && flat.getMysqlType().equals(read.getMysqlType())
                    && String.valueOf(flat.getPkNames()).equals(String.valueOf(read.getPkNames()))
                    && flat.getType().equals(read.getType()) && flat.getEs().equals(read.getEs());
                write(out, (same ? "same" : "different: " + read).getBytes(StandardCharsets.UTF_8));
            }
        }
        out.flush();
    }

    /** Its byte writer fails on long texts with many escapes (so does Canal with them); its character writer does not. */
    static byte[] json(FlatMessage flat) {
        try {
            return JSON.toJSONBytes(flat, JSONWriter.Feature.WriteNulls, JSONWriter.Feature.LargeObject);
        } catch (ArrayIndexOutOfBoundsException bug) {
            return JSON.toJSONString(flat, JSONWriter.Feature.WriteNulls, JSONWriter.Feature.LargeObject).getBytes(StandardCharsets.UTF_8);
        }
    }

    /** fastjson2 reads maps without order. */
    static List<Map<String, String>> ordered(List<Map<String, String>> rows, List<Map<String, String>> like) {
        List<Map<String, String>> result = new ArrayList<>();
        for (int i = 0; i < rows.size(); i++) {
            Map<String, String> row = new LinkedHashMap<>();
            for (String name : like.get(i).keySet()) row.put(name, rows.get(i).get(name));
            result.add(row);
        }
        return result;
    }

    static byte[] frame(DataInputStream in) throws Exception {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        return bytes;
    }

    static void write(DataOutputStream out, byte[] bytes) throws Exception {
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    static FlatMessage flat(CanalEntry.Entry entry, long id, long ts) throws Exception {
        CanalEntry.Header header = entry.getHeader();
        CanalEntry.RowChange change = CanalEntry.RowChange.parseFrom(entry.getStoreValue());
        FlatMessage flat = new FlatMessage(id);
        flat.setDatabase(header.getSchemaName());
        flat.setTable(header.getTableName());
        flat.setIsDdl(change.getIsDdl());
        flat.setType(change.getEventType().toString());
        flat.setEs(header.getExecuteTime());
        flat.setTs(ts);
        flat.setSql(change.getSql());
        flat.setGtid(header.getGtid());
        if (change.getIsDdl()) return flat;
        boolean isUpdate = change.getEventType() == CanalEntry.EventType.UPDATE;
        boolean isDelete = change.getEventType() == CanalEntry.EventType.DELETE;
        Map<String, Integer> sqlType = new LinkedHashMap<>();
        Map<String, String> mysqlType = new LinkedHashMap<>();
        List<Map<String, String>> data = new ArrayList<>();
        List<Map<String, String>> old = new ArrayList<>();
        Set<String> updated = new HashSet<>();
        boolean first = true;
        for (CanalEntry.RowData rowData : change.getRowDatasList()) {
            Map<String, String> row = new LinkedHashMap<>();
            for (CanalEntry.Column column : isDelete ? rowData.getBeforeColumnsList() : rowData.getAfterColumnsList()) {
                if (first && column.getIsKey()) flat.addPkName(column.getName());
                sqlType.put(column.getName(), column.getSqlType());
                mysqlType.put(column.getName(), column.getMysqlType());
                row.put(column.getName(), column.getIsNull() ? null : column.getValue());
                if (column.getUpdated()) updated.add(column.getName());
            }
            first = false;
            data.add(row);
            if (!isUpdate) continue;
            Map<String, String> before = new LinkedHashMap<>();
            for (CanalEntry.Column column : rowData.getBeforeColumnsList())
                if (updated.contains(column.getName()))
                    before.put(column.getName(), column.getIsNull() ? null : column.getValue());
            old.add(before);
        }
        flat.setSqlType(sqlType);
        flat.setMysqlType(mysqlType);
        flat.setData(data);
        if (!old.isEmpty()) flat.setOld(old);
        return flat;
    }
}
