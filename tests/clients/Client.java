import com.ericsson.otp.erlang.OtpEpmd;
import com.ericsson.otp.erlang.OtpNode;
import com.ericsson.otp.erlang.OtpPeer;
import java.io.IOException;
import java.net.InetAddress;
import java.util.Arrays;

/** A node by jinterface that asks another host's epmd all that the library can ask. */
public class Client {
    public static void main(String[] words) throws IOException {
        OtpNode node = new OtpNode(words[0], words[1]);
        String own = Arrays.toString(OtpEpmd.lookupNames());
        System.out.println("published " + own.startsWith("[name java at port "));
        String[] names = {};
        try {
            names = OtpEpmd.lookupNames(InetAddress.getByName("api.test"));
        } catch (IOException | NegativeArraySizeException refused) {
            // The library takes it for an answer of -4 bytes; nothing is learnt.
        }
        System.out.println("names " + (names.length == 0 ? "none" : Arrays.toString(names)));
        int port = 0;
        try {
            port = OtpEpmd.lookupPort(new OtpPeer("api@api.test"));
        } catch (IOException refused) {
            // Nor here.
        }
        System.out.println("port " + (port == 0 ? "none" : port));
        System.out.println("ping " + node.ping("api@api.test", 5000));
        node.close();
        System.exit(0);
    }
}
